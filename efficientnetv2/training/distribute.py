"""Devices and processes of a run: distribution strategies, and the workers of a cluster."""

import atexit
import contextlib
import functools
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from efficientnetv2.common.console import is_verbose, show
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.text import one_line
from efficientnetv2.hparams import nearest
from efficientnetv2.training.signals import StopRequested, StopSignals

STRATEGIES = ("auto", "one", "mirrored", "gpus", "multiworker", "tpu")
EXAMPLE = (
    '{"cluster": {"worker": ["HOST1:PORT", "HOST2:PORT"]}, "task": {"type": "worker", "index": 0}}'
)
AGREE_EVERY = 10  # Steps or evaluation batches between two checks among workers whether to stop.


def make_strategy(
    name: str | tf.distribute.Strategy = "auto", tpu: str | None = None
) -> tf.distribute.Strategy:
    """Returns the strategy to build and train a model under; call it before any operation.

    A `tf.distribute.Strategy` is returned unchanged. Names:

    `auto`: all GPUs if there are several, else one device; `one`: one device, no strategy;
    `mirrored` (officially `gpus`): MirroredStrategy over all GPUs, or on the CPU if there are none;
    `multiworker`: MultiWorkerMirroredStrategy over the processes listed in the environment variable
    TF_CONFIG, each of which calls this function and waits for the others; `tpu`: TPUStrategy on the
    TPU named by `tpu`, or the local one.

    Raises: UserError for an unknown name, a TPU that cannot be reached, or a TF_CONFIG that is
    missing or invalid, or names a port already in use.
    """
    if isinstance(name, tf.distribute.Strategy):
        return name
    if name not in STRATEGIES:
        raise UserError(f"unknown strategy {name!r}{nearest(name, STRATEGIES)}")
    if name == "tpu":
        return _tpu_strategy(tpu)
    if name == "multiworker":
        return _multi_worker_strategy()
    gpus = tf.config.list_logical_devices("GPU")
    if name in ("mirrored", "gpus") or (name == "auto" and len(gpus) > 1):
        devices = gpus or tf.config.list_logical_devices("CPU")
        return _mirrored_strategy(*(device.name for device in devices))
    return tf.distribute.get_strategy()


@functools.cache  # Two strategies in a process would mix up their collective operations.
def _mirrored_strategy(*devices: str) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(devices)


def _tpu_strategy(tpu: str | None) -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu or "")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no TPU found for --tpu={tpu}: {reason}; use --strategy=auto") from error
    return tf.distribute.TPUStrategy(resolver)


def _multi_worker_strategy() -> tf.distribute.Strategy:
    cluster, job, index = read_tf_config(os.environ.get("TF_CONFIG", ""))
    address, count = cluster[job][index], sum(map(len, cluster.values()))
    line = f"{job} {index} of {count} workers, at {address}; waiting for all"
    show(line, stderr=True)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        reason = one_line(error)
        raise UserError(
            f"{job} {index} of TF_CONFIG cannot work at {address}: {reason}; "
            "its port must be free, and all workers started"
        ) from error


def read_tf_config(text: str) -> tuple[dict[str, list[str]], str, int]:
    """Returns the cluster, {job: addresses}, and the job and index of this process in it.

    Workers have the job "worker"; the first may have the job "chief".
    Raises: UserError if `text`, the value of TF_CONFIG, does not have this format.
    Source: format of `tf.distribute.cluster_resolver.TFConfigClusterResolver` in TensorFlow.
    """
    if not text:
        raise _wrong("is not set")
    try:
        config = json.loads(text)
    except ValueError as error:
        raise _wrong(f"is no JSON ({error})") from error
    cluster = config.get("cluster") if isinstance(config, dict) else None
    if not isinstance(cluster, dict) or not cluster.get("worker", cluster.get("chief")):
        raise _wrong("names no workers in its cluster")
    for job, addresses in cluster.items():
        if job not in ("chief", "worker"):
            raise _wrong(f"has the job {job!r}; there are only chief and worker")
        if not isinstance(addresses, list) or not all(map(_is_address, addresses)):
            raise _wrong(f"must list the HOST:PORT of each {job}")
    if len(cluster.get("chief", ())) > 1:
        raise _wrong("has several chiefs; leave one")
    every = [address for addresses in cluster.values() for address in addresses]
    if len(set(every)) < len(every):
        raise _wrong("names an address twice")
    return cluster, *_task(config.get("task"), cluster)


def _task(task, cluster: dict[str, list[str]]) -> tuple[str, int]:
    if not isinstance(task, dict) or task.get("type") not in cluster:
        raise _wrong(f"must say in its task which type this process is: {' or '.join(cluster)}")
    job, index = task["type"], str(task.get("index"))
    if not index.isdecimal() or int(index) >= len(cluster[job]):
        raise _wrong(f"has no {job} {index}: indices go from 0 to {len(cluster[job]) - 1}")
    return job, int(index)


def _is_address(text) -> bool:
    return isinstance(text, str) and text.rpartition(":")[2].isdecimal() and text[0] != ":"


def _wrong(what: str) -> UserError:
    return UserError(f"--strategy=multiworker: TF_CONFIG {what}; an example: {EXAMPLE}")


class Workers:
    """The processes of a strategy, from the perspective of this one; most strategies have one.

    Several workers run the same program, and each step waits for all of them, so all must make the
    same calls in the same order. The first one is the chief: only it writes the run and prints
    output. The others write, too, since writing reads variables that are sums over all workers,
    but to temporary folders that are deleted when they exit.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self.strategy = strategy
        self.index, self.count = _place(strategy)
        self._asked: StopSignals | None = None

        @tf.function
        def summed(values):
            values = strategy.run(tf.identity, args=(values,))
            return strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)

        self._summed = summed

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run."""
        return self.index == 0

    @property
    def shard(self) -> tuple[int, int]:
        """The part of each batch whose rows this worker reads: (index, count)."""
        return self.index, self.count

    @property
    def stream(self):
        """The stream for progress output: stdout of the chief if verbose, else a silent one."""
        return sys.stdout if self.is_chief and is_verbose() else _Silent()

    def folder(self, model_dir: str) -> str:
        """Returns the folder this worker writes to: `model_dir` for the chief, else a new one."""
        if self.is_chief:
            return model_dir
        folder = tempfile.mkdtemp(prefix=f"worker-{self.index}-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def distribute(self, batches: tf.data.Dataset):
        """Distributes training batches to the replicas; each worker passes its own rows.

        Counted over all workers, replica i gets the i-th part of the rows of the global batch.
        """
        if self.count == 1:
            return self.strategy.experimental_distribute_dataset(batches)
        # Otherwise the workers would check before each step that all of them have another batch.
        endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        return self._distribute_rows(batches.apply(endless))

    def distribute_whole(self, batches: tf.data.Dataset):
        """Distributes global batches like `distribute`; each worker takes its own rows."""
        if self.count == 1:
            return self.strategy.experimental_distribute_dataset(batches)

        def own(values):
            rows = values.shape[0] // self.count
            return values[self.index * rows : (self.index + 1) * rows]

        return self._distribute_rows(batches.map(lambda *batch: tf.nest.map_structure(own, batch)))

    def gathered(self, value: int) -> list[int]:
        """Returns the values of all workers, the same list in each; waits for all of them."""
        if self.count == 1:
            return [value]
        values = np.zeros(self.count, np.int64)
        values[self.index] = value
        replicas = self.strategy.num_replicas_in_sync // self.count
        return [int(total) // replicas for total in self._summed(tf.constant(values))]

    def check_same(self, what: str, value: int) -> None:
        """Checks that all workers have the same value. Raises: UserError if they do not."""
        values = self.gathered(value)
        if len(set(values)) > 1:
            raise UserError(
                f"the workers have different {what}: {', '.join(map(str, values))}; "
                "--model_dir must be a folder that all of them share"
            )

    def all_stop(self, step: int, requested: bool) -> bool:
        """Returns whether to stop after a step: with several workers, if any was asked to.

        Several workers check this every `AGREE_EVERY` steps.
        """
        if self.count == 1:
            return requested
        return step % AGREE_EVERY == 0 and any(self.gathered(int(requested)))

    @contextlib.contextmanager
    def breaking_off(self, signals: StopSignals) -> Iterator[None]:
        """Makes stop requests raise StopRequested; with several workers, only in `between`."""
        if self.count == 1:
            with signals.breaking_off():
                yield
            return
        self._asked = signals
        try:
            yield
        finally:
            self._asked = None

    def between(self, number: int) -> None:
        """Handles stop requests between batches. Raises: StopRequested, see `breaking_off`."""
        if self._asked is not None and self.all_stop(number, self._asked.requested):
            raise StopRequested

    @contextlib.contextmanager
    def lost_told(self) -> Iterator[None]:
        """Raises a UserError in the context when TensorFlow detects that another worker ended."""
        try:
            yield
        except tf.errors.OpError as error:
            marker = "Collective ops is aborted by: "
            if self.count == 1 or marker not in str(error):
                raise
            reason = str(error).partition(marker)[2].splitlines()[0].removesuffix(":")
            raise UserError(
                f"another worker has ended ({reason}); see what it said, then start all of them "
                "with the same command: they go on from the last checkpoint"
            ) from error

    def _distribute_rows(self, batches: tf.data.Dataset):
        replicas = self.strategy.num_replicas_in_sync // self.count
        batches = split_rows(batches, replicas)
        return self.strategy.distribute_datasets_from_function(lambda context: batches)


def split_rows(batches: tf.data.Dataset, parts: int) -> tf.data.Dataset:
    """Splits each batch into `parts` batches of equal size, keeping the order of the rows."""
    if parts == 1:
        return batches

    def split(values):
        return tf.reshape(values, [parts, values.shape[0] // parts, *values.shape[1:]])

    return batches.map(lambda *batch: tf.nest.map_structure(split, batch)).unbatch()


def _place(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Returns the index of this process among the workers, and their number."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0, 1
    resolver = strategy.cluster_resolver
    cluster = resolver.cluster_spec().as_dict()
    chiefs = len(cluster.get("chief", ()))
    index = resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)
    return index, chiefs + len(cluster.get("worker", ()))


class _Silent(io.TextIOBase):
    """A text stream that discards its input."""

    def write(self, text: str) -> int:
        return len(text)
