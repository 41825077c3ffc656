"""Registry of data sources: the module and function that opens each `data.ds_name`.

To add a data source, write a module with a function (data_config, split, seed) -> `Source`, and add
a row here.
"""

import importlib

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.sources.source import SPLITS, Source

_OPENERS = {
    "shapes": ("efficientnetv2.datasets.sources.tfds", "open_tfds"),
    "folder": ("efficientnetv2.datasets.sources.folder", "open_folder"),
    "csv": ("efficientnetv2.datasets.sources.csv", "open_csv"),
    "tfrecord": ("efficientnetv2.datasets.sources.tfrecord", "open_tfrecord"),
    "tfds": ("efficientnetv2.datasets.sources.tfds", "open_tfds"),
}
_BALANCED = ("folder", "csv")


def open_source(data_config, split: str, seed: int) -> Source:
    """Opens one split of the data set that `data_config.ds_name` names.

    Args:
        data_config: `hparams.DataConfig`.
        split: "train"; "minival", evaluated while training; or "eval", evaluated at the end.
        seed: determines the order of each epoch, and which files of a folder without splits are
            held out; use one seed for all splits of a run.

    Raises: UserError if the data cannot be used as configured; the message suggests a fix.
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
    # Imported when needed: TFDS takes a second to import.
    source = getattr(importlib.import_module(module), function)(data_config, split, seed)
    if source.multi_label != data_config.multiclass:
        found = "any number of labels" if source.multi_label else "one label"
        raise UserError(
            f"data.multiclass={data_config.multiclass}, but the images of data.ds_name={name} "
            f"have {found} each; set it to {source.multi_label}"
        )
    return source
