"""A tiny network, its config and data, shared by tests."""

import keras
import numpy as np
import tensorflow as tf

from efficientnetv2 import Blocks, ModelSpec, build_model, hparams
from efficientnetv2.network.layers import HeadDropout
from efficientnetv2.training.trainer import Trainer

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


def make_quick_model() -> keras.Model:
    """Convolution, BatchNorm, dropout, classifier: each kind of state, and traced fast."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(8, 3, strides=2, use_bias=False, name="stem_conv")(x)
    x = keras.layers.BatchNormalization(name="stem_bn")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    x = HeadDropout(0.2, name="head_dropout")(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="classifier")(x))


def make_batches(stage: hparams.Stage, first_step: int) -> tf.data.Dataset:
    """Batch i is a function of i and the stage's shape; of a variant, the steps that draw it."""
    return _batches(stage, first_step)


def make_poisoned_batches(*bad_steps: int):
    """Gives a `make_batches` in which the labels of some steps are not finite."""
    return lambda stage, first_step: _batches(stage, first_step, bad_steps)


def _batches(stage, first_step, bad_steps=()):
    size, rows = stage.image_size, stage.batch_size
    steps = [i for i in range(first_step, stage.end_step) if stage.has_step(i)]
    bad = tf.constant([-1, *bad_steps], tf.int64)

    def batch(i):
        image = tf.random.stateless_uniform([rows, size, size, 3], [7, i], 0, 256, tf.int32)
        label = tf.random.stateless_uniform([rows], [8, i], 0, CLASSES, tf.int32)
        label = tf.one_hot(label, CLASSES)
        label = tf.where(tf.reduce_any(bad == i), np.float32(np.nan), label)
        return {"image": tf.cast(image, tf.uint8)}, {"label": label}

    return tf.data.Dataset.from_tensor_slices(tf.constant(steps, tf.int64)).map(batch)


def make_examples(count: int = 21, size: int = 32) -> tf.data.Dataset:
    """Unbatched examples; always the same."""
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    labels = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, count)]
    return tf.data.Dataset.from_tensor_slices(({"image": images}, {"label": labels}))


def make_trainer(model_dir, config=None, strategy=None, model=make_model, **more) -> Trainer:
    config = config or make_config()
    strategy = strategy or tf.distribute.get_strategy()
    stages = hparams.make_stages(config)
    return Trainer(config, stages, str(model_dir), strategy, model=model, **more)
