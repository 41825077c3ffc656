"""Bad examples: `data.on_error=skip` trains without them.

In training a bad example's slot of the batch is taken by the next good one of its group, so that a
batch stays a function of (config, seed, epoch, step). Bad means that the example cannot be read or
decoded; any other error still ends the run.
"""

import hashlib
import threading
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import logging

from datasets.sources import Source
from datasets.unreadable import find_fault
from hparams import UserError

_NAMED = 3  # names in a message


class BadExamples:
    """Counts the bad examples of one split, logs each once, and says when there are too many.

    One object is for one split of one run of the program: a resumed run counts anew. It may be
    used by many threads.
    """

    def __init__(self, source: Source, split: str, data_config):
        """Uses `max_bad_share` and `max_pixels` of `data_config`, a `hparams.DataConfig`."""
        self._source = source
        self._split = split
        self._max_share = data_config.max_bad_share
        self._max_pixels = data_config.max_pixels
        self._names: dict[str, str] = {}  # Of an example, by its record: not all names differ.
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many distinct examples were bad."""
        return len(self._names)

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, in the order in which they were met."""
        return tuple(self._names.values())

    def report(self, *record) -> None:
        """Notes one bad example, by the parts of its record.

        Raises: UserError if it is one too many, or if nothing is wrong with it: then the error that
            brought it here is not the example's, and must not pass for it.
        """
        key = hashlib.sha256(repr(record).encode()).digest()
        record = tuple(tf.convert_to_tensor(part) for part in record)
        with self._lock:
            if key in self._names:
                return
            name = self._source.name_of(*record).numpy().decode()
            fault = find_fault(self._source, record, self._max_pixels)
            if fault is None:
                raise UserError(
                    f"{name} failed in the pipeline, but can be read and decoded: the storage "
                    "failed for a moment, or the program is at fault; run again, with "
                    "data.on_error=stop to see the error"
                )
            if fault.kind == "broken record":  # Not the data: the settings do not fit them.
                raise UserError(f"{name} {fault.reason}")
            self._names[key] = f"{name} ({fault.reason})"
            logging.warning("%s: skips %s: %s", self._split, name, fault.reason)
            self._check_share()

    def _check_share(self) -> None:
        total = self._source.num_examples
        if self.count > self._max_share * total:
            first = "; ".join(self.names[:_NAMED])
            more = "" if self.count <= _NAMED else "; ..."
            raise UserError(
                f"{self.count} of the {total} examples of {self._split} are bad, more than "
                f"data.max_bad_share={self._max_share:g} allows: {first}{more}. "
                "See all with --mode=check_data, mend them, or raise data.max_bad_share"
            )


def load_group(
    elements: tuple,
    example: Callable,
    records: tuple[tf.Tensor, ...],
    bad: BadExamples,
    *,
    replace: bool = True,
):
    """Makes the examples of a group, without the bad ones, inside a tf.data map.

    What is bad is told to `bad` by a Python function, which runs only for a group with bad
    examples; so a pipeline with it works in this process only, not through tf.data service.
    Keep out of `example` what cannot fail for the data's sake, such as augmentation.

    Args:
        elements: tensors [n, ...], the arguments of `example`.
        example: one element's parts -> any structure of tensors of static shapes. May fail in the
            graph because an example cannot be read or decoded.
        records: tensors [n, ...], the parts of the elements' records in the source.
        replace: put the next good example, cyclic, into the slot of a bad one; else leave it out.

    Returns: `example`'s structure, stacked: [n, ...], or if not `replace` [number of good ones,
        ...].
    Raises: in the graph, UserError (as tf.errors.InvalidArgumentError) if `bad` raises it, or if
        all are bad and `replace`.
    """
    count = tf.shape(tf.nest.flatten(records)[0])[0]
    numbered = tf.data.Dataset.from_tensor_slices((tf.range(count), *elements))
    examples = numbered.map(lambda position, *parts: (position, example(*parts)))
    # A group without a good example would have no batch: an empty one follows for it.
    good = examples.ignore_errors().batch(tf.cast(count, tf.int64))
    nothing = tf.data.Dataset.from_tensors(tf.nest.map_structure(_empty, good.element_spec))
    positions, examples = good.concatenate(nothing).take(1).get_single_element()

    def without_bad():
        is_bad = tf.tensor_scatter_nd_update(
            tf.ones([count], tf.bool), positions[:, None], tf.zeros_like(positions, tf.bool)
        )
        needed = positions if replace else None
        told = _tell(bad, [tf.boolean_mask(part, is_bad) for part in records], needed)
        with tf.control_dependencies([told]):
            if not replace:
                return tf.nest.map_structure(tf.identity, examples)
            # The first good position at or after each position; beyond the last one, the first.
            slots = tf.searchsorted(positions, tf.range(count)) % tf.size(positions)
        return tf.nest.map_structure(lambda part: tf.gather(part, slots), examples)

    examples = tf.cond(tf.size(positions) < count, without_bad, lambda: examples)
    size = tf.nest.flatten(records)[0].shape[0] if replace else None
    for part in tf.nest.flatten(examples):
        part.set_shape([size, *part.shape[1:]])
    return examples


def _empty(spec: tf.TensorSpec) -> tf.Tensor:
    return tf.zeros([size or 0 for size in spec.shape], spec.dtype)


def _tell(bad: BadExamples, parts: list[tf.Tensor], needed: tf.Tensor | None) -> tf.Tensor:
    """Reports the records whose parts are stacked in `parts`.

    Raises: UserError, in the graph, if `needed` is given and empty: then there is no replacement.
    """

    def report(left: np.ndarray, *columns: np.ndarray) -> np.bool_:
        for record in zip(*columns):
            bad.report(*record)
        if not left:
            raise UserError(
                f"none of the {len(columns[0])} examples of a group can be read, such as "
                f"{bad.names[0]}; mend them"
            )
        return np.bool_(True)

    left = 1 if needed is None else tf.size(needed)
    return tf.numpy_function(report, [left, *parts], tf.bool)
