"""Image files: a list of paths and labels as a `Source` with random access."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from efficientnetv2.datasets.sources.source import Source

_BLOCK = 1024  # records per lookup
_CLASS_STRIDE = 0x9E3779B1  # spreads the classes over 32 bits; any large odd number works


def make_indexed_source(
    paths: Sequence[str],
    labels: Sequence[int] | Sequence[Sequence[int]],
    class_names: Sequence[str],
    seed: int,
    *,
    multi_label: bool = False,
    balanced: bool = False,
) -> Source:
    """Creates a source of image files.

    A record is (path, label), or for a multi-label source (path, position in `paths`). Skipping is
    free, and `record_at` returns any record of any epoch.

    Order: a permutation of the examples that is a function of (seed, epoch). With `balanced`, an
    epoch has the same length but contains every class equally often (counts differ by at most one).
    A permutation maps position p of an epoch to q, which is draw q div K from class q mod K of the
    K classes that have examples; the draws of a class go through one permutation of its examples
    after another. The fixed order (epoch None) is never balanced.

    Args:
        labels: one class per path; with `multi_label` the classes of each.
        seed: determines the order, together with the epoch.
    """
    count = len(paths)
    rows = [list(row) for row in labels] if multi_label else [[label] for label in labels]
    all_paths = tf.constant(list(paths))
    all_labels = tf.ragged.constant(rows, tf.int64, inner_shape=())
    second = tf.range(count, dtype=tf.int64) if multi_label else all_labels.values
    pick = _balanced_picker(rows, class_names, count, seed) if balanced else _picker(count, seed)

    def record_at(epoch: tf.Tensor | None, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        positions = tf.cast(positions, tf.int64)
        indices = positions if epoch is None else pick(tf.cast(epoch, tf.int64), positions)
        return tf.gather(all_paths, indices), tf.gather(second, indices)

    def records(epoch: tf.Tensor | None = None, skip: int | tf.Tensor = 0) -> tf.data.Dataset:
        skip = tf.cast(skip, tf.int64)
        # Blocks are ten times as fast as single records.
        blocks = tf.data.Dataset.range(skip, count).batch(_BLOCK)
        dataset = blocks.map(lambda positions: record_at(epoch, positions)).unbatch()
        return dataset.apply(tf.data.experimental.assert_cardinality(count - skip))

    def load(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.io.read_file(path), all_labels[label] if multi_label else label

    return Source(
        num_examples=count,
        class_names=tuple(class_names),
        records=records,
        load=load,
        name_of=lambda path, label: path,
        multi_label=multi_label,
        class_counts=count_labels(rows, len(class_names)),
        record_at=record_at,
    )


def count_labels(rows: Sequence[Sequence[int]], classes: int) -> tuple[int, ...]:
    """Returns the number of examples of each of `classes` classes."""
    flat = np.concatenate([np.asarray(row, np.int64) for row in rows])
    return tuple(np.bincount(flat, minlength=classes).tolist())


def shuffled_index(positions: tf.Tensor, key: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Maps positions through pseudorandom permutations.

    Args:
        positions: int64 [n], each in [0, its size).
        key: int64 [3] or [n, 3]; the low 32 bits of each value select the permutation.
        sizes: int64 scalar or [n].

    Source: `tf.random.experimental.index_shuffle`, which takes only one key.
    """
    return tf.raw_ops.RandomIndexShuffle(
        index=positions, seed=tf.cast(key % 2**32, tf.uint32), max_index=sizes - 1, rounds=4
    )


def _picker(count: int, seed: int):
    def pick(epoch: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
        return tf.random.experimental.index_shuffle(
            positions, tf.stack([tf.constant(seed, tf.int64), epoch]), count - 1
        )

    return pick


def _balanced_picker(rows, class_names, count: int, seed: int):
    """Returns a function (epoch, positions) -> indices of examples, every class equally often."""
    lengths = [len(row) for row in rows]
    flat = np.concatenate([np.asarray(row, np.int64) for row in rows])
    members = np.repeat(np.arange(count), lengths)[np.argsort(flat, kind="stable")]
    counts = np.bincount(flat, minlength=len(class_names))
    if not all(lengths):
        logging.warning(
            "class_balance=sample never draws the %d examples without a label", lengths.count(0)
        )
    present = np.flatnonzero(counts)
    starts = tf.constant((np.cumsum(counts) - counts)[present], tf.int64)
    sizes = tf.constant(counts[present], tf.int64)
    members = tf.constant(members, tf.int64)
    shuffle = _picker(count, seed)

    def pick(epoch: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
        shuffled = shuffle(epoch, positions)
        draws, classes = shuffled // len(present), shuffled % len(present)
        size = tf.gather(sizes, classes)
        which = (classes * _CLASS_STRIDE + draws // size) % 2**32  # Unique per class and pass.
        run = tf.stack([tf.constant(seed, tf.int64), epoch])
        key = tf.concat([tf.tile(run[None], [tf.size(draws), 1]), which[:, None]], axis=1)
        inside = shuffled_index(draws % size, key, size)
        return tf.gather(members, tf.gather(starts, classes) + inside)

    return pick
