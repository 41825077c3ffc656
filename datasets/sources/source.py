"""Where the examples come from: the `Source` type and `open_source`, which picks one by name."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from efficientnetv2.common.errors import UserError

SPLITS = ("train", "minival", "eval")
_OPENERS = {
    "shapes": ("efficientnetv2.datasets.sources.tfds", "open_tfds"),
    "folder": ("efficientnetv2.datasets.sources.folder", "open_folder"),
    "csv": ("efficientnetv2.datasets.sources.csv", "open_csv"),
    "tfrecord": ("efficientnetv2.datasets.sources.tfrecord", "open_tfrecord"),
    "tfds": ("efficientnetv2.datasets.sources.tfds", "open_tfds"),
}
_BALANCED = ("folder", "csv")


@dataclass(frozen=True)
class Source:
    """One split of a data set: which examples there are, in which order, and how to read one.

    A record is what identifies or holds one example: a tuple of tensors, such as a path and its
    label. Reading records is cheap and serial; `load` and decoding run in parallel.

    Attributes:
        num_examples: how many examples one epoch has.
        class_names: names in the order of the labels.
        records: (epoch, skip) -> the epoch's records from position `skip` on; with `skip` 0 exactly
            `num_examples` of them. `epoch` is an int64 scalar tensor and the order is a function of
            (seed, epoch) only; `None` gives the fixed order. May be called inside
            `Dataset.flat_map`.
        load: one record's parts -> (encoded image, scalar string; label). The label is an int64
            scalar, or int64 [any number], the classes of a multi-label example. To be run in a
            parallel map: `dataset.map(source.load, num_parallel_calls=...)`.
        name_of: one record's parts -> scalar string for messages: a path, or file and position.
        multi_label: whether examples have any number of labels.
        class_counts: examples of each class, where that is known without reading the data.
        record_at: (epoch, positions int64 [n]) -> the parts of these records, stacked; None where
            records can only be read one after the other.
    """

    num_examples: int
    class_names: tuple[str, ...]
    records: Callable[..., tf.data.Dataset]
    load: Callable[..., tuple[tf.Tensor, tf.Tensor]]
    name_of: Callable[..., tf.Tensor]
    multi_label: bool = False
    class_counts: tuple[int, ...] | None = None
    record_at: Callable[[tf.Tensor | None, tf.Tensor], tuple[tf.Tensor, ...]] | None = None


def open_source(data_config, split: str, seed: int) -> Source:
    """Opens one split of the data set that `data_config.ds_name` names.

    Args:
        data_config: `hparams.DataConfig`.
        split: "train"; "minival", evaluated while training; or "eval", evaluated at the end.
        seed: decides the order of each epoch, and which files of a folder without splits are
            held out; use one seed for all splits of a run.

    Raises: UserError if the data cannot be used as given; the message names the fix.
    """
    if split not in SPLITS:
        raise UserError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    name = data_config.ds_name
    if name not in _OPENERS:
        raise UserError(f"data.ds_name must be one of {', '.join(_OPENERS)}, got {name!r}")
    if data_config.class_balance == "sample" and name not in _BALANCED:
        raise UserError(
            f"data.class_balance=sample needs the label of every example beforehand, which "
            f"data.ds_name={name} does not have; use {' or '.join(_BALANCED)}, or "
            "data.class_balance=loss"
        )
    module, function = _OPENERS[name]
    # Imported when needed: TFDS takes a second to import, and all of them import this module.
    source = getattr(importlib.import_module(module), function)(data_config, split, seed)
    if source.multi_label != data_config.multiclass:
        found = "any number of labels" if source.multi_label else "one label"
        raise UserError(
            f"data.multiclass={data_config.multiclass}, but the images of data.ds_name={name} "
            f"have {found} each; set it to {source.multi_label}"
        )
    return source
