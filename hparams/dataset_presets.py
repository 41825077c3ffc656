"""Data set presets: the settings that a named data set implies, and those of fine-tuning."""

import dataclasses

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams.overrides import flatten, nearest

# For planning without the data, as stated officially. The number of images in the first 20 files
# depends on who wrote them, so it is not a setting, which the data would have to match.
_PLANNED_IMAGES = {"imagenet": 1_256_144, "imagenet21k": 12_720_275}


def _splits(train: tuple, minival: tuple, evaluation: tuple, key: str = "tfds_split") -> dict:
    """Returns splits from (expression or glob, number of images[, slice]); None is left out."""
    names = (key, "num_images", "slice")
    found = {"train": train, "minival": minival, "eval": evaluation}
    return {
        split: {name: value for name, value in zip(names, values) if value is not None}
        for split, values in found.items()
    }


def _tfds(name: str, num_classes: int, splits: dict, **more) -> dict:
    data = {"ds_name": "tfds", "tfds_name": name, "num_classes": num_classes, "splits": splits}
    return {"data": {**data, **more}}


def _fine_tuned(layer: dict) -> dict:
    """Adds fine-tuning settings to the settings of a data set.

    Source: the official *ft configs. The training size is the evaluation size, floored to a
    multiple of 16; images are squashed, not cropped, in both training and evaluation.
    """
    return {
        "model": {"dropout_rate": 1e-6, "dropout_base": 0.0, "survival_prob": 0.8},
        "train": {
            "batch_size": 512,
            "epochs": 15,
            "min_steps": 10_000,
            "stages": 1,
            "isize": 1.0,
            "lr_base": 0.0005,
            "lr_sched": "constant",
            "lr_warmup_epoch": 1.0,
            "ema_decay": 0.9996,
            "weight_decay": 1e-5,
            "label_smoothing": 0.1,
        },
        "data": {
            **layer["data"],
            "augname": "ft",
            "mixup_alpha": 0.0,
            "cutmix_alpha": 0.0,
            "crop_area_min": 1.0,
            "eval_crop": "whole",
            "resize_method": "bilinear",
        },
    }


# The official minival is train[2%:], which is mostly training images.
_IMAGENET_TFDS = _tfds(
    "imagenet2012",
    1000,
    _splits(("train[:98%]", 1_255_544), ("train[98%:]", 25_623), ("validation", 50_000)),
    label_file="imagenet",
)
# The official minival of CIFAR and Cars is the test set; here it is held out of train.
_CIFAR = _splits(("train[:90%]", 45_000), ("train[90%:]", 5_000), ("test", 10_000))
_FINE_TUNED = {
    "imagenetft": _IMAGENET_TFDS,
    "cifar10ft": _tfds("cifar10", 10, _CIFAR),
    "cifar100ft": _tfds("cifar100", 100, _CIFAR),
    "flowersft": _tfds(
        "oxford_flowers102",
        102,
        _splits(("train", 1_020), ("validation", 1_020), ("test", 6_149)),
    ),
    # 3,670 images, which the official eval shares with train.
    "tfflowersft": _tfds(
        "tf_flowers",
        5,
        _splits(("train[:70%]", 2_569), ("train[70%:85%]", 551), ("train[85%:]", 550)),
    ),
    "carsft": _tfds(
        "cars196", 196, _splits(("train[:90%]", 7_330), ("train[90%:]", 814), ("test", 8_041))
    ),
}

DATASETS = {
    "shapes": {
        "data": {
            "ds_name": "shapes",
            "num_classes": 12,
            "splits": {
                "train": {"num_images": 6000},
                "minival": {"num_images": 600},
                "eval": {"num_images": 1200},
            },
        }
    },
    "folder": {"data": {"ds_name": "folder"}},
    "csv": {"data": {"ds_name": "csv"}},
    "tfrecord": {
        "data": {
            "ds_name": "tfrecord",
            "splits": {
                "train": {"files": "train*"},
                "minival": {"files": "val*"},
                "eval": {"files": "val*"},
            },
        }
    },
    "imagenet": {
        "data": {
            "ds_name": "tfrecord",
            "record_layout": "imagenet",
            "num_classes": 1000,
            "label_file": "imagenet",
            "splits": _splits(
                ("train*", None, "20:"), ("train*", None, ":20"), ("val*", None, None), "files"
            ),
        }
    },
    "imagenet21k": {
        "model": {"dropout_rate": 1e-6, "dropout_base": 0.0, "survival_prob": 1.0},
        "train": {
            "epochs": 60,
            "lr_base": 0.008,
            "lr_warmup_epoch": 1.0,
            "lr_sched": "cosine",
            "label_smoothing": 0.0,
            "isize": 224,
            "stages": 1,
        },
        "eval": {"batch_size": 128, "isize": 224},
        "data": {
            "ds_name": "tfrecord",
            "record_layout": "imagenet21k",
            "multiclass": True,
            "num_classes": 21_843,
            "augname": None,
            "mixup_alpha": 0.0,
            "cutmix_alpha": 0.0,
            "splits": _splits(
                ("imagenet21k*", None, "20:"),
                ("imagenet21k*", None, "16:20"),
                ("imagenet21k*", None, "0:16"),
                "files",
            ),
        },
    },
    "imagenettfds": _IMAGENET_TFDS,
    **{name: _fine_tuned(layer) for name, layer in _FINE_TUNED.items()},
}


def planned_images(dataset_cfg: str) -> int | None:
    """Returns how many training images a data set should have, if known without its files."""
    data = dataset_layer(dataset_cfg)["data"]
    known = data.get("splits", {}).get("train", {}).get("num_images")
    return known or _PLANNED_IMAGES.get(dataset_cfg.lower())


def dataset_cfg_of(config) -> str:
    """Returns the name of a config's data set, as `dataset_layer` takes it.

    If several presets share the data, such as imagenettfds and imagenetft, it is the one that
    agrees with most settings of the config.
    """
    values = dict(flatten(dataclasses.asdict(config)))
    source = _identity(values.get)
    layers = {name: dict(flatten(layer)) for name, layer in DATASETS.items()}
    if config.data.ds_name == "tfds":
        plain = f"tfds:{config.data.tfds_name}"
        layers[plain] = dict(flatten(dataset_layer(plain)))

    def agreement(name: str) -> int:
        return sum(1 if values[key] == value else -1 for key, value in layers[name].items())

    return max((n for n, layer in layers.items() if _identity(layer.get) == source), key=agreement)


def _identity(get) -> tuple:
    """Returns a key that is equal for configs of the same data."""
    ds_name = get("data.ds_name")
    layout = get("data.record_layout") or "imagenet"
    return ds_name, get("data.tfds_name"), layout if ds_name == "tfrecord" else None


def dataset_layer(dataset_cfg: str) -> dict:
    """Returns the settings of a named data set; "tfds:NAME" is any TensorFlow data set.

    Raises: UserError for an unknown name, naming the nearest.
    """
    kind, colon, tfds_name = dataset_cfg.partition(":")
    if kind == "tfds" and colon and tfds_name:
        return {"data": {"ds_name": "tfds", "tfds_name": tfds_name}}
    if dataset_cfg.lower() not in DATASETS:
        hint = nearest(dataset_cfg.lower(), [*DATASETS, "tfds:NAME"])
        raise UserError(f"unknown data set {dataset_cfg!r}{hint}")
    return DATASETS[dataset_cfg.lower()]


# Safe defaults for folders of hundreds to tens of thousands of photos, chosen by measurement, see
# docs/fine_tuning.md. Up to `FEW_IMAGES`, BatchNorm keeps its statistics, see
# `Config.freezes_batch_norm`.
FINE_TUNING = {
    "model": {"dropout_rate": 0.2, "dropout_base": 0.2, "survival_prob": 0.9},
    "train": {
        "batch_size": 32,
        "epochs": 15,
        "min_steps": 300,  # Enough steps to train the classifier even on very few images.
        "stages": 1,
        "isize": 1.0,  # The evaluation size, floored to a multiple of 16.
        "optimizer": "adamw",
        "lr_base": 0.0024,
        "lr_sched": "cosine",
        "lr_warmup_epoch": 1.0,
        "head_warmup_epoch": 1.0,
        "layer_lr_decay": 0.95,
        "weight_decay": 0.02,
        "label_smoothing": 0.1,
        "ema_decay": 0.9996,
        "gclip": 1.0,
    },
    "eval": {"best_metric": "top1"},
    "data": {
        "augname": "randaug",
        "op_set": "corrected",
        "ram_base": 5.0,
        "ram": 5.0,
        "ra_num_layers": 1,
        "mixup_alpha": 0.0,
        "cutmix_alpha": 0.0,
        "crop_area_min": 0.35,
    },
}
