"""The records of a run, numbered: number n is position n % N of epoch n // N."""

import tensorflow as tf

from datasets.sources import Source
from hparams import UserError


def numbered_records(source: Source, first: int, end: int) -> tf.data.Dataset:
    """The records of a run in their order: (number, int64 scalar; the parts of the record...).

    Args:
        source: has N examples an epoch.
        first: the first number; nothing before it is decoded.
        end: the number after the last.
    """
    first_epoch, skip = divmod(first, source.num_examples)
    end_epoch = -(-end // source.num_examples)

    def records(epoch: tf.Tensor) -> tf.data.Dataset:
        start = tf.where(epoch == first_epoch, tf.constant(skip, tf.int64), 0)
        return source.records(epoch, start)

    stream = tf.data.Dataset.range(first_epoch, end_epoch).flat_map(records)
    stream = stream.take(end - first).enumerate(first)
    return stream.map(lambda number, record: (number, *record))


def numbered_by_step(
    source: Source, first: int, end: int, batch: int, offset: int = 0
) -> tf.data.Dataset:
    """The same records, but the batch of a step can be made without those before it.

    So the workers of a tf.data service share out the steps, and each batch is still the one that a
    single machine would make.

    Args:
        source: has random access.
        first: the first step.
        end: the step after the last.
        batch: records of a step.
        offset: step s has the records from `offset + s * batch` on.

    Raises: UserError if the source has no random access.
    """
    if source.record_at is None:
        raise UserError(
            "--data_service needs records that can be read in any order: a folder, CSV, or local "
            "TFRecord files; drop it, or see --mode=prepare"
        )

    def records(step: tf.Tensor) -> tf.data.Dataset:
        step_start = offset + step * batch

        def of_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
            start = epoch * source.num_examples
            begin = tf.maximum(step_start, start)
            stop = tf.minimum(step_start + batch, start + source.num_examples)
            numbers = tf.data.Dataset.range(begin, stop).batch(batch)  # Together, which is faster.
            return numbers.map(lambda n: (n, *source.record_at(epoch, n - start))).unbatch()

        last = step_start + batch - 1
        epochs = tf.data.Dataset.range(
            step_start // source.num_examples, last // source.num_examples + 1
        )
        return epochs.flat_map(of_epoch)

    return tf.data.Dataset.range(first, end).flat_map(records)


def read_through_service(dataset: tf.data.Dataset, address: str, bad) -> tf.data.Dataset:
    """Has the workers of a tf.data service make the batches; each is made once, by one of them.

    They arrive in the order in which they are ready.

    Args:
        dataset: the batches, from `numbered_by_step`.
        address: "grpc://HOST:PORT" of the dispatcher.
        bad: must be None: what workers skip could not be counted.

    Raises: UserError if the address is none, or with `data.on_error=skip`.
    """
    if bad is not None:
        raise UserError(
            "data.on_error=skip cannot count through --data_service; take out what "
            "--mode=check_data finds, or drop one"
        )
    if not address.startswith("grpc://"):
        raise UserError(f"--data_service must be grpc://HOST:PORT, got {address!r}")
    return dataset.apply(
        tf.data.experimental.service.distribute(
            tf.data.experimental.service.ShardingPolicy.DYNAMIC, address
        )
    )
