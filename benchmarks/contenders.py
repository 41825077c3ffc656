"""Process of one contender of `train_step.py`. Arguments: NAME CASE BATCH PRECISION JIT.

It runs a first step and then, for each number read from standard input, that many more steps. Each
answer is a line of JSON on standard output; the last one reports the peak memory.
"""

import contextlib
import dataclasses
import json
import os
import resource
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

VARIANTS = {  # Name in the cases: (our name, name in keras.applications).
    **{f"b{i}": (f"efficientnetv2-b{i}", f"EfficientNetV2B{i}") for i in range(4)},
    **{size: (f"efficientnetv2-{size}", f"EfficientNetV2{size.upper()}") for size in "sml"},
}
CLASSES = 1000


def random_batch(batch: int, size: int):
    """Returns uint8 [B, S, S, 3] images and float32 [B, 1000] labels."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    return images, np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, batch)]


def our_step(variant: str, size: int, batch: int, precision: str, jit: bool):
    """Returns `step()` as run by the trainer, for a stage with one image size."""
    import tensorflow as tf

    from efficientnetv2 import build_from_config, hparams
    from efficientnetv2.training.ema import WeightAverage
    from efficientnetv2.training.optimizer import Optimization, policy_scope
    from efficientnetv2.training.step import make_train_step

    config = hparams.get_config(
        VARIANTS[variant][0],
        "imagenet",
        f"train.batch_size={batch},train.stages=1,train.isize={size},data.ibase=null,"
        f"train.precision={precision},train.jit_compile={str(jit).lower()},"
        "data.splits.train.num_images=1281167",
    )
    stages = hparams.make_stages(config)
    with policy_scope(precision):
        model = build_from_config(config)
    optimization = Optimization(config, model)
    average = WeightAverage(model, config.train.ema_decay)
    strategy, total = tf.distribute.get_strategy(), stages[-1].end_step
    stage = dataclasses.replace(stages[0], image_size=size)
    train_step = make_train_step(strategy, model, optimization, average, config, stage, total)
    images, labels = map(tf.constant, random_batch(batch, size))
    features, labels = {"image": images}, {"label": labels}
    return lambda: float(train_step(features, labels, 1, 1e-4).loss)


def fitted_step(variant: str, size: int, batch: int, precision: str, jit: bool, ours: bool):
    """Returns `step()` of Keras' own training loop, as used with keras.applications."""
    import keras

    from efficientnetv2 import build_model
    from efficientnetv2.training.optimizer import policy_scope

    our_name, their_name = VARIANTS[variant]
    with policy_scope(precision):
        if ours:
            model = build_model(our_name, num_classes=CLASSES)
        else:
            make = getattr(keras.applications, their_name)
            shape = (size, size, 3)
            model = make(weights=None, input_shape=shape, classifier_activation=None)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    optimizer = keras.optimizers.RMSprop(1e-4, rho=0.9, momentum=0.9, epsilon=1e-3)
    model.compile(optimizer=optimizer, loss=loss, jit_compile=jit)
    images, labels = random_batch(batch, size)
    return lambda: model.train_on_batch(images, labels)


def main() -> None:
    name, case, batch, precision, jit = sys.argv[1:]
    variant, size = case.split("@")
    settings = variant, int(size), int(batch), precision, jit == "on"
    answers = os.fdopen(os.dup(1), "w")  # Redirects what libraries print to stderr.
    os.dup2(2, 1)

    def timed(steps: int, step) -> dict:
        begun, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            step()
        seconds = (time.perf_counter() - begun) / steps
        return {"seconds": seconds, "cpu_seconds": (time.process_time() - cpu) / steps}

    def answer(values: dict) -> None:
        print(json.dumps(values), file=answers, flush=True)

    import tensorflow  # noqa: F401  Its import does not count as part of the first step.

    begun, cpu = time.perf_counter(), time.process_time()
    step = our_step(*settings) if name == "ours" else fitted_step(*settings, name == "ours, fit")
    step()
    answer(
        {
            "first_seconds": time.perf_counter() - begun,
            "first_cpu_seconds": time.process_time() - cpu,
        }
    )
    step()
    with contextlib.suppress(KeyboardInterrupt):
        for line in sys.stdin:
            answer(timed(int(line), step))
    answer({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024})


if __name__ == "__main__":
    main()
