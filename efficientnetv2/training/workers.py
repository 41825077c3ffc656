"""The processes of a run: which rows of a batch each reads, who writes, and what all agree on."""

import atexit
import contextlib
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from efficientnetv2.training.guards import StopRequested, StopSignals
from hparams import UserError

AGREE_EVERY = 10  # Steps, or batches of an evaluation, between two questions whether to stop.


class Workers:
    """The processes of a strategy, seen from this one; most strategies have one process.

    Several run the same program, and each step waits for all, so that all must make the same
    calls in the same order. The first is the chief: it alone writes the run and talks. What the
    others write goes to folders of their own, which end with them: writing reads variables that
    are sums over all workers.
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
        return self.index == 0

    @property
    def shard(self) -> tuple[int, int]:
        """Which rows of each batch this worker reads: (index, count)."""
        return self.index, self.count

    @property
    def stream(self):
        """Where the run tells how it is getting on."""
        return sys.stdout if self.is_chief else _Silent()

    def folder(self, model_dir: str) -> str:
        """Where this worker writes: the chief into `model_dir`."""
        if self.is_chief:
            return model_dir
        folder = tempfile.mkdtemp(prefix=f"worker-{self.index}-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def distribute(self, batches: tf.data.Dataset):
        """Returns training batches for the replicas; of several workers each gives its own rows.

        Replica i of all has the i-th part of the rows of the global batch.
        """
        if self.count == 1:
            return self.strategy.experimental_distribute_dataset(batches)
        # Else the workers would ask each other before each step whether all have one more batch.
        endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        return self._distribute_rows(batches.apply(endless))

    def distribute_whole(self, batches: tf.data.Dataset):
        """As `distribute`, of global batches, of which each worker takes its rows."""
        if self.count == 1:
            return self.strategy.experimental_distribute_dataset(batches)

        def own(values):
            rows = values.shape[0] // self.count
            return values[self.index * rows : (self.index + 1) * rows]

        return self._distribute_rows(batches.map(lambda *batch: tf.nest.map_structure(own, batch)))

    def gathered(self, value: int) -> list[int]:
        """Returns the value of each worker, the same list in all; waits for all."""
        if self.count == 1:
            return [value]
        values = np.zeros(self.count, np.int64)
        values[self.index] = value
        replicas = self.strategy.num_replicas_in_sync // self.count
        return [int(total) // replicas for total in self._summed(tf.constant(values))]

    def check_same(self, what: str, value: int) -> None:
        """Raises: UserError if the workers have different values."""
        values = self.gathered(value)
        if len(set(values)) > 1:
            raise UserError(
                f"the workers have different {what}: {', '.join(map(str, values))}; "
                "--model_dir must be a folder that all of them share"
            )

    def all_stop(self, step: int, requested: bool) -> bool:
        """Whether to stop after a step: of several workers when one of them was asked to.

        They ask each other every `AGREE_EVERY` steps.
        """
        if self.count == 1:
            return requested
        return step % AGREE_EVERY == 0 and any(self.gathered(int(requested)))

    @contextlib.contextmanager
    def breaking_off(self, signals: StopSignals) -> Iterator[None]:
        """Inside, a request to stop raises StopRequested; of several workers in `between`."""
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
        """Called after each batch of an evaluation. Raises: StopRequested, see `breaking_off`."""
        if self._asked is not None and self.all_stop(number, self._asked.requested):
            raise StopRequested

    @contextlib.contextmanager
    def lost_told(self) -> Iterator[None]:
        """Inside, the end of another worker raises a UserError, once TensorFlow has noticed it."""
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
    """Returns each batch as so many batches of equal size, its rows in their order."""
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
    """Takes text and shows nothing."""

    def write(self, text: str) -> int:
        return len(text)
