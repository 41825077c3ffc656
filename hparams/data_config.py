"""Where the images come from and what is done to them: `data.*` of a config."""

import dataclasses

from hparams.setting import setting

DATA_SOURCES = ("shapes", "folder", "tfds", "tfrecord", "csv")
RECORD_LAYOUTS = ("imagenet", "imagenet21k")
EVAL_CROPS = ("v2", "v1", "whole")
RESIZE_METHODS = ("bilinear", "legacy_bicubic")
OP_SETS = ("official", "corrected")
POLICIES = ("randaug", "autoaug", "ra_aa")
FINE_TUNING_POLICIES = (
    "ft",
    "ft_cutout",
    "ft_autoaug",
    "ft_randaug",
    "ft_autoaug_randaug",
    "ft_autoaug_cutout",
    "ft_randaug_cutout",
    "ft_autoaug_randaug_cutout",
)
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """One split; every value may be left to the data source."""

    num_images: int | None = setting(None, least=1)
    tfds_split: str | None = None
    files: str | None = None  # Of TFRecords or CSV: a glob in `data_dir`.
    slice: str | None = None  # Of the sorted files, as in Python: "20:".


@dataclasses.dataclass(frozen=True)
class SplitsConfig:
    """`minival` is evaluated while training, `eval` at the end."""

    train: SplitConfig = SplitConfig()
    minival: SplitConfig = SplitConfig()
    eval: SplitConfig = SplitConfig()


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the images come from and what is done to them."""

    ds_name: str = setting("shapes", choices=DATA_SOURCES)
    data_dir: str | None = None
    tfds_name: str | None = None
    record_layout: str = setting("imagenet", choices=RECORD_LAYOUTS)  # Ours.
    multiclass: bool = False  # Several labels per image, or none.
    label_file: str | None = None  # Ours: class names, one per line, in the order of the labels.
    num_classes: int | None = setting(None, least=2)  # None: as many as the source has.
    splits: SplitsConfig = SplitsConfig()
    eval_fraction: float = setting(0.2, above=0, below=1)  # Ours: held out where no split is given.
    class_balance: str | None = setting(None, choices=("sample", "loss"))  # Ours.
    on_error: str = setting("stop", choices=("stop", "skip"))  # Ours: of an unreadable image.
    max_bad_share: float = setting(0.01, least=0, below=1)  # Ours: on_error=skip fails above it.
    max_pixels: int = setting(100_000_000, least=1)  # Ours: larger images count as unreadable.
    memory_mb: int = setting(1024, least=1)  # Ours: MiB that shuffling may hold.
    fast_decode: bool = False  # Ours: of large JPEGs, 2 to 7 levels off.
    ibase: int | None = setting(128, least=1)  # Pixels in the first stage; None: half the last.
    augname: str | None = setting("randaug", choices=(*POLICIES, *FINE_TUNING_POLICIES))
    op_set: str = setting("official", choices=OP_SETS)  # Ours: bug for bug, or mended.
    ra_num_layers: int = setting(2, least=1)
    ram: float = setting(15.0, least=0, most=30)  # RandAugment magnitude in the last stage.
    ram_base: float = setting(5.0, least=0, most=30)  # Ours: in the first stage.
    translate_const: float | None = setting(None, least=0)  # Ours, as the next: pixels at
    cutout_const: float | None = setting(None, least=0)  # magnitude 10. None: the policy's own.
    mixup_alpha: float = setting(0.0, least=0)  # In the last stage.
    mixup_base: float = setting(0.0, least=0)  # Ours: in the first stage.
    cutmix_alpha: float = setting(0.0, least=0)  # In the last stage.
    cutmix_base: float = setting(0.0, least=0)  # Ours: in the first stage.
    extra_augment: str | None = None  # Ours: layers of keras-cv by name, see extra_augment.py.
    crop_area_min: float = setting(0.05, above=0, most=1)  # Ours: share of the image; 1: no crop.
    eval_crop: str = setting("v2", choices=EVAL_CROPS)  # Ours: see datasets/preprocess.py.
    resize_method: str = setting("bilinear", choices=RESIZE_METHODS)  # Ours.
