"""The `Source` type: one split of a data set as encoded images with labels."""

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

SPLITS = ("train", "minival", "eval")


@dataclass(frozen=True)
class Source:
    """One split of a data set: its examples, their order, and how to read one.

    A record identifies or contains one example: a tuple of tensors, such as a path and its label.
    Reading records is cheap and serial; `load` and decoding run in parallel.

    Attributes:
        num_examples: number of examples per epoch.
        class_names: names in the order of the labels.
        records: (epoch, skip) -> the epoch's records from position `skip` on; with `skip` 0 exactly
            `num_examples` of them. `epoch` is an int64 scalar tensor and the order is a function of
            (seed, epoch) only; `None` gives the fixed order. May be called inside
            `Dataset.flat_map`.
        load: one record's parts -> (encoded image, scalar string; label). The label is an int64
            scalar, or int64 [any number], the classes of a multi-label example. Run it in a
            parallel map: `dataset.map(source.load, num_parallel_calls=...)`.
        name_of: one record's parts -> scalar string for messages: a path, or file and position.
        multi_label: whether examples have any number of labels.
        class_counts: number of examples of each class, if known without reading the data.
        record_at: (epoch, positions int64 [n]) -> the parts of these records, stacked; None if
            records can only be read sequentially.
    """

    num_examples: int
    class_names: tuple[str, ...]
    records: Callable[..., tf.data.Dataset]
    load: Callable[..., tuple[tf.Tensor, tf.Tensor]]
    name_of: Callable[..., tf.Tensor]
    multi_label: bool = False
    class_counts: tuple[int, ...] | None = None
    record_at: Callable[[tf.Tensor | None, tf.Tensor], tuple[tf.Tensor, ...]] | None = None
