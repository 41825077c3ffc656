"""The registered data sets: official values, disjoint splits, names."""

import re

import pytest

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams import MODELS, dataset_cfg_of, get_config, make_stages
from efficientnetv2.hparams.dataset_presets import DATASETS, dataset_layer, planned_images
from efficientnetv2.hparams.overrides import flatten

FINE_TUNING = ("imagenetft", "cifar10ft", "cifar100ft", "flowersft", "tfflowersft", "carsft")
TRAIN_IMAGES = {  # Of TFDS.
    "imagenet2012": 1_281_167,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "oxford_flowers102": 1_020,
    "tf_flowers": 3_670,
    "cars196": 8_144,
}


def chosen(config, keys):
    values = {}
    for key in keys:
        value = config
        for name in key.split("."):
            value = getattr(value, name)
        values[key] = value
    return values


@pytest.mark.parametrize("name", FINE_TUNING)
@pytest.mark.parametrize("schedule", ["paper", "official"])
def test_fine_tuning_as_the_official_configs(name, schedule):
    expected = {  # official_semantics.md, section 7.2
        "model.dropout_rate": 1e-6,
        "model.survival_prob": 0.8,
        "train.batch_size": 512,
        "train.stages": 1,
        "train.epochs": 15,
        "train.lr_sched": "constant",
        "train.lr_base": 0.0005,
        "train.lr_warmup_epoch": 1,
        "train.ema_decay": 0.9996,
        "train.weight_decay": 1e-5,
        "train.label_smoothing": 0.1,
        "train.min_steps": 10_000,
        "train.isize": 1.0,
        "data.augname": "ft",
        "data.mixup_alpha": 0,
        "data.cutmix_alpha": 0,
        "data.crop_area_min": 1,
        "data.eval_crop": "whole",
        "data.resize_method": "bilinear",
        "data.multiclass": False,
    }
    for model in ("efficientnetv2-b3", "efficientnetv2-l"):
        config = get_config(model, name, f"train.schedule={schedule}")
        assert chosen(config, expected) == expected
        (stage,) = make_stages(config)
        assert stage.image_size == {"efficientnetv2-b3": 288, "efficientnetv2-l": 480}[model]
        assert stage.end_step >= 10_000


def test_imagenet21k_as_the_official_config():
    expected = {
        "model.dropout_rate": 1e-6,
        "model.survival_prob": 1,
        "train.epochs": 60,
        "train.lr_base": 0.008,
        "train.lr_warmup_epoch": 1,
        "train.lr_sched": "cosine",
        "train.label_smoothing": 0,
        "train.isize": 224,
        "train.stages": 1,
        "eval.batch_size": 128,
        "eval.isize": 224,
        "data.multiclass": True,
        "data.augname": None,
        "data.mixup_alpha": 0,
        "data.cutmix_alpha": 0,
        "data.num_classes": 21_843,
        "data.record_layout": "imagenet21k",
    }
    assert chosen(get_config("efficientnetv2-l", "ImageNet21k"), expected) == expected


@pytest.mark.parametrize("name", ["imagenettfds", *FINE_TUNING])
def test_tfds_splits_do_not_overlap_and_add_up(name):
    data = get_config("efficientnetv2-s", name).data
    total, of_train = TRAIN_IMAGES[data.tfds_name], {}
    splits = {split: getattr(data.splits, split) for split in ("train", "minival", "eval")}
    assert len({split.tfds_split for split in splits.values()}) == 3
    for split in splits.values():
        base, start, end = re.fullmatch(r"(\w+)(?:\[(\d*)%?:(\d*)%?\])?", split.tfds_split).groups()
        if base == "train":  # TFDS rounds the ends to the nearest image.
            ends = tuple(round(total * int(p or d) / 100) for p, d in ((start, 0), (end, 100)))
            of_train[ends] = split.num_images
            assert split.num_images == ends[1] - ends[0]
    ends = sorted(of_train)
    assert [end for _, end in ends[:-1]] == [start for start, _ in ends[1:]]
    assert sum(of_train.values()) == total


@pytest.mark.parametrize("name", ["imagenet", "imagenet21k"])
def test_record_splits_are_disjoint_slices(name):
    splits = get_config("efficientnetv2-s", name).data.splits
    files = list(range(100))
    seen = []
    for split in (splits.train, splits.minival, splits.eval):
        if split.files == splits.train.files:
            start, end = (int(part) if part else None for part in split.slice.split(":"))
            seen += files[start:end]
    assert sorted(seen) == files


@pytest.mark.parametrize("name", DATASETS)
def test_a_config_tells_its_data_set(name):
    for model in MODELS:
        config = get_config(model, name.upper(), data_dir="x")
        assert dataset_cfg_of(config) == name
        changed = "train.epochs=3,train.batch_size=7,data.num_classes=3,data.augname=null"
        assert dataset_cfg_of(get_config(model, name, changed, data_dir="x")) == name


@pytest.mark.parametrize("name", ["tfds:cifar10", "tfds:imagenet2012", "tfds:mnist"])
def test_a_config_of_any_tfds_name(name):
    assert dataset_cfg_of(get_config("efficientnetv2-s", name)) == name


def test_the_data_set_replaces_values_of_the_model():
    config = get_config("efficientnet-b4", "cifar10ft", "data.augname=ft_randaug")
    assert chosen(config, ["data.augname", "data.eval_crop", "data.resize_method"]) == {
        "data.augname": "ft_randaug",
        "data.eval_crop": "whole",
        "data.resize_method": "bilinear",
    }


def test_plans_without_data():
    assert planned_images("imagenet") == 1_256_144
    assert planned_images("ImageNet21k") == 12_720_275
    assert planned_images("cifar10ft") == 45_000
    assert planned_images("shapes") == 6_000
    assert planned_images("folder") is planned_images("tfds:x") is None


def test_layers_hold_no_empty_settings_of_splits():
    """A `None` in a layer would undo nothing and count as a setting."""
    for layer in DATASETS.values():
        assert all(v is not None for k, v in flatten(layer) if k.startswith("data.splits."))


def test_unknown_names():
    with pytest.raises(UserError, match="did you mean 'flowersft'"):
        dataset_layer("flowerft")
