"""A tiny network, its config and data, shared by tests. As a script: a run that kills itself."""

import os
import signal
import sys

import numpy as np
import tensorflow as tf

import hparams
from efficientnetv2 import Blocks, ModelSpec, build_model
from efficientnetv2.training import Trainer, trainer

CLASSES = 12
SPEC = ModelSpec(
    "tiny",
    (
        Blocks("fused", 1, 3, 2, 2, 8, 8),
        Blocks("mbconv", 1, 3, 1, 2, 8, 8, se_ratio=0.25),
    ),
    head_channels=16,
)


def make_config(overrides: str = "") -> hparams.Config:
    """Four stages of three steps, 17 to 32 pixels; `overrides` win."""
    settings = {
        "train.batch_size": 8,
        "train.epochs": 4,
        "data.splits.train.num_images": 24,
        "train.isize": 32,
        "data.ibase": 17,
        "eval.isize": 32,
        "eval.batch_size": 16,
        "train.lr_warmup_epoch": 1,
        "runtime.log_step_count_steps": 1,
        "runtime.checkpoint_steps": 2,
    }
    text = ",".join(f"{key}={value}" for key, value in settings.items())
    return hparams.get_config("efficientnetv2-b0", "shapes", f"{text},{overrides}")


def make_model(bn_synchronized: bool = False):
    return build_model(SPEC, num_classes=CLASSES, bn_synchronized=bn_synchronized)


def make_batches(stage: hparams.Stage, first_step: int) -> tf.data.Dataset:
    """Batch i is a function of i and the stage's shape."""
    size, rows = stage.image_size, stage.batch_size

    def batch(i):
        image = tf.random.stateless_uniform([rows, size, size, 3], [7, i], 0, 256, tf.int32)
        label = tf.random.stateless_uniform([rows], [8, i], 0, CLASSES, tf.int32)
        return {"image": tf.cast(image, tf.uint8)}, {"label": tf.one_hot(label, CLASSES)}

    return tf.data.Dataset.range(first_step, stage.end_step).map(batch)


def make_examples(count: int = 21, size: int = 32) -> tf.data.Dataset:
    """Unbatched examples; always the same."""
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    labels = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, count)]
    return tf.data.Dataset.from_tensor_slices(({"image": images}, {"label": labels}))


def make_trainer(model_dir, config=None, strategy=None, model=make_model) -> Trainer:
    config = config or make_config()
    strategy = strategy or tf.distribute.get_strategy()
    return Trainer(config, hparams.make_stages(config), str(model_dir), strategy, model=model)


def run_until_killed(model_dir: str, last_step: int) -> None:
    """Starts a run that ends with SIGKILL when step `last_step` is about to be made."""
    learning_rate_at = trainer.learning_rate_at

    def killing(config, stages, step):
        if step == last_step:
            os.kill(os.getpid(), signal.SIGKILL)
        return learning_rate_at(config, stages, step)

    trainer.learning_rate_at = killing
    make_trainer(model_dir).train(make_batches, make_examples)


if __name__ == "__main__":
    run_until_killed(sys.argv[1], int(sys.argv[2]))
