"""Where the examples come from: the `Source` type and `open_source`, which picks one by name."""

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from hparams import UserError

SPLITS = ("train", "minival", "eval")


@dataclass(frozen=True)
class Source:
    """One split of a data set: which examples there are, in which order, and how to read one.

    Attributes:
        num_examples: how many examples one epoch has.
        class_names: names in the order of the labels.
        records: epoch -> that epoch's records, exactly `num_examples` of them, cheap and serial.
            `epoch` is an int64 scalar tensor and the order is a function of (seed, epoch) only;
            `None` gives the fixed order. May be called inside `Dataset.flat_map`.
        load: one record -> (encoded image, scalar string; label, scalar int64). To be run in a
            parallel map: `dataset.map(source.load, num_parallel_calls=...)`.
    """

    num_examples: int
    class_names: tuple[str, ...]
    records: Callable[[tf.Tensor | None], tf.data.Dataset]
    load: Callable[..., tuple[tf.Tensor, tf.Tensor]]


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
    # Imported when needed: TFDS takes a second to import, and both modules import this one.
    if data_config.ds_name == "folder":
        from datasets.folder import open_folder

        return open_folder(data_config, split, seed)
    if data_config.ds_name in ("shapes", "tfds"):
        from datasets.tfds_source import open_tfds

        return open_tfds(data_config, split, seed)
    raise UserError(
        f"data.ds_name must be one of shapes, folder, tfds, got {data_config.ds_name!r}"
    )
