"""Measured training step time of networks, with exclusive use of the host.

    python -m efficientnetv2.search.measure SPEC.json … [--size=224] [--batch=32]

The step is that of `--mode=train`: forward pass, backward pass, optimizer and averages of the
weights, without the input pipeline. It is timed after a warm-up, always on the same batch of random
images. Prints one line of JSON per specification.

Host-wide lock: many workers may train at once, but measurements run exclusively. Two files are
locked by `flock`. A worker that trains holds `turn` as a shared lock; a worker that measures first
takes `wish`, which those that train poll: they pause, and release `turn`.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from efficientnetv2 import hparams
from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams import Config

POLL_SECONDS = 0.1
WARM_STEPS = 2  # The first of them is traced.
LEAST_STEPS, MOST_STEPS, ENOUGH_SECONDS = 7, 50, 2.0


def never() -> bool:
    """Returns False: the default of `stopping`."""
    return False


class HostTurns:
    """Host-wide lock, as used by one process.

    `stopping()` returns whether to give up waiting; the waiting call then returns without the lock.
    """

    def __init__(self, stopping: Callable[[], bool] = never):
        self.stopping = stopping
        self._wish, self._turn = (_opened(f"efficientnetv2-search-{x}") for x in ("wish", "turn"))

    def close(self) -> None:
        """Releases all locks."""
        os.close(self._wish)
        os.close(self._turn)

    def begin_work(self) -> None:
        """Waits until no other process measures, then takes the shared lock."""
        if self._take(self._wish, fcntl.LOCK_SH):
            self._take(self._turn, fcntl.LOCK_SH)
        _release(self._wish)

    def end_work(self) -> None:
        """Releases the shared lock."""
        _release(self._turn)

    def give_way(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """Pauses the work, if another process wants to measure, until it has."""
        if _try(self._wish, fcntl.LOCK_SH):
            _release(self._wish)
            return
        pause()
        self.end_work()
        self.begin_work()
        resume()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Holds the lock exclusively inside the block. Do not enter while holding it shared."""
        if self._take(self._wish, fcntl.LOCK_EX):
            self._take(self._turn, fcntl.LOCK_EX)
        try:
            yield
        finally:
            _release(self._turn)
            _release(self._wish)

    def _take(self, file: int, how: int) -> bool:
        while not _try(file, how):
            if self.stopping():
                return False
            time.sleep(POLL_SECONDS)
        return True


def _opened(name: str) -> int:
    """Opens a lock file of all users of this host; O_CREAT can fail for a file of another user."""
    path = os.path.join(tempfile.gettempdir(), f"{name}.lock")
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)


def _try(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _release(file: int) -> None:
    fcntl.flock(file, fcntl.LOCK_UN)


@dataclasses.dataclass(frozen=True)
class Measured:
    """The median time of a training step, and the conditions of the measurement.

    `parameters` counts all of the network's, including BatchNorm's statistics; `batch_size` is
    global; `steps`: number of timed steps; `run_steps`: number of steps of the whole run.
    """

    step_seconds: float
    parameters: int
    image_size: int
    batch_size: int
    steps: int
    run_steps: int
    device: str


def measure_step(
    config: Config, strategy=None, alone: contextlib.AbstractContextManager | None = None
) -> Measured:
    """Measures the training step of a run, at the image size and batch of its last stage.

    `data.num_classes` and `data.splits.train.num_images` must be known; the data itself is not
    used. The steps are timed inside the context `alone`.
    Raises: UserError as the trainer.
    """
    import keras
    import tensorflow as tf

    from efficientnetv2.training.environment import hardware

    strategy = strategy or tf.distribute.get_strategy()
    config = hparams.with_values(config, data__class_balance=None)
    stages = hparams.make_stages(config)
    stage = dataclasses.replace(stages[-1], variants=(), draw=None)
    parameters, times = _steps_of(config, strategy, stages, stage, alone)
    keras.backend.clear_session()  # The network is no longer needed.
    return Measured(
        step_seconds=statistics.median(times),
        parameters=parameters,
        image_size=stage.image_size,
        batch_size=stage.batch_size,
        steps=len(times),
        run_steps=stages[-1].end_step,
        device=_device(hardware(), strategy.num_replicas_in_sync),
    )


def _steps_of(config: Config, strategy, stages, stage, alone) -> tuple[int, list[float]]:
    """Returns the number of parameters, and the seconds of each step."""
    from efficientnetv2.training.trainer import StageSteps, Trainer

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, stages, folder, strategy)
        data = _random_batches(stage, config.data.num_classes)
        steps = StageSteps(stage, lambda variant, step: trainer.open_variant(variant, step, data))
        number = stage.end_step - 1
        batch = steps.next_batch(number)
        times = _timed(lambda: float(steps.make(number, batch, 1e-4)[0].loss), alone)
        return trainer.model.count_params(), times


def measure_spec(
    spec, image_size: int, batch_size: int = 32, precision: str = "float32", alone=None
) -> Measured:
    """Measures the training step of a `ModelSpec` for 1000 classes.

    Raises: UserError for sizes that are not positive.
    """
    from efficientnetv2.hparams.spec import save_spec

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "spec.json")
        save_spec(spec, path)
        config = hparams.get_config(
            path,
            "imagenet",
            f"train.batch_size={batch_size},train.stages=1,train.isize={image_size},"
            f"eval.isize={image_size},data.ibase=null,train.precision={precision},"
            "data.num_classes=1000,data.splits.train.num_images=1281167",
        )
        return measure_step(config, alone=alone)


def _random_batches(stage, classes: int):
    """Repeats one random batch endlessly: uint8 [B, S, S, 3] images, float32 [B, K] labels."""
    import tensorflow as tf

    shape = (stage.image_size, stage.image_size, 3)

    def example(number):
        seed = tf.stack([number, tf.zeros_like(number)])
        pixels = tf.random.stateless_uniform(shape, seed, 0, 256, tf.int32)
        label = tf.one_hot(number % classes, classes)
        return {"image": tf.cast(pixels, tf.uint8)}, {"label": label}

    examples = tf.data.Dataset.range(stage.batch_size).map(example)
    return examples.batch(stage.batch_size, drop_remainder=True).repeat()


def _timed(
    step: Callable[[], float], alone: contextlib.AbstractContextManager | None
) -> list[float]:
    """Returns the seconds of each step, after some warm-up steps."""
    for _ in range(WARM_STEPS):
        step()
    times = []
    with alone or contextlib.nullcontext():
        while len(times) < LEAST_STEPS or (sum(times) < ENOUGH_SECONDS and len(times) < MOST_STEPS):
            begun = time.perf_counter()
            step()
            times.append(time.perf_counter() - begun)
    return times


def _device(facts: dict[str, str], replicas: int) -> str:
    """Describes the hardware in words."""
    parts = [facts["devices"], facts["processor"], f"{facts['cores']} cores"]
    return ", ".join([*filter(None, parts), f"{replicas} replica{'s' * (replicas > 1)}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("specs", nargs="+", metavar="SPEC.json", help="or a name of a network")
    parser.add_argument("--size", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    options = parser.parse_args()
    from efficientnetv2.common.tf_import import import_tensorflow

    import_tensorflow()
    from efficientnetv2.hparams.models import get_spec

    turns = HostTurns()
    try:
        for name in options.specs:
            measured = measure_spec(
                get_spec(name), options.size, options.batch, options.precision, turns.alone()
            )
            print(json.dumps({"model": name, **dataclasses.asdict(measured)}), flush=True)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
