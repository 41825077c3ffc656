"""What a named model and a named data set bring, and which layer wins."""

import pytest

from efficientnetv2 import hparams, list_models
from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams import MODELS, dataset_presets, get_config, save_config
from efficientnetv2.hparams.dataset_presets import DATASETS


def values(config, *keys):
    found = []
    for key in keys:
        value = config
        for name in key.split("."):
            value = getattr(value, name)
        found.append(value)
    return tuple(found)


# official_semantics.md, section 1.13, with schedule=official.
@pytest.mark.parametrize(
    "model, size, eval_size, dropout, magnitude, mixup",
    [
        ("s", 300, 384, 0.2, 10, 0),
        ("m", 384, 480, 0.3, 15, 0.2),
        ("l", 384, 480, 0.4, 20, 0.5),
        ("xl", 384, 512, 0.4, 20, 0.5),
        ("b0", 192, 224, 0.2, None, 0),
        ("b1", 192, 240, 0.2, None, 0),
        ("b2", 208, 260, 0.3, None, 0),
        ("b3", 240, 300, 0.3, None, 0),
    ],
)
def test_official_values_per_model(model, size, eval_size, dropout, magnitude, mixup):
    config = get_config(f"efficientnetv2-{model}", "imagenet", "train.schedule=official")
    keys = ("train.isize", "eval.isize", "model.dropout_rate", "data.mixup_alpha")
    assert values(config, *keys) == (size, eval_size, dropout, mixup)
    assert config.data.cutmix_alpha == mixup  # One number feeds both.
    assert config.data.augname == ("autoaug" if magnitude is None else "randaug")
    if magnitude is not None:
        assert config.data.ram == magnitude


@pytest.mark.parametrize(
    "key, value",
    [  # official_semantics.md, section 0.2
        ("train.epochs", 350),
        ("train.batch_size", 4096),
        ("train.lr_base", 0.016),
        ("train.lr_sched", "exponential"),
        ("train.lr_decay_epoch", 2.4),
        ("train.lr_decay_factor", 0.97),
        ("train.lr_warmup_epoch", 5),
        ("train.lr_min", 0),
        ("train.weight_decay", 1e-5),
        ("train.ema_decay", 0.9999),
        ("train.label_smoothing", 0.1),
        ("train.min_steps", 0),
        ("train.stages", 4),
        ("model.survival_prob", 0.8),
        ("model.bn_momentum", 0.9),
        ("model.bn_epsilon", 1e-3),
        ("model.act_fn", "silu"),
        ("data.ra_num_layers", 2),
        ("data.ibase", 128),
        ("data.augname", "randaug"),
    ],
)
def test_official_base_values(key, value):
    assert values(get_config("efficientnetv2-s", "imagenet"), key) == (value,)


def test_every_architecture_has_a_preset():
    assert sorted(MODELS) == sorted(list_models())


@pytest.mark.parametrize("model_name", MODELS)
def test_preprocessing_fits_the_family(model_name):
    config = get_config(model_name, "imagenet")
    expected = ("v2", "bilinear", 0.05)
    if model_name.startswith(("efficientnetv2-b", "efficientnet-")):
        expected = ("v1", "legacy_bicubic", 0.08)
    keys = ("data.eval_crop", "data.resize_method", "data.crop_area_min")
    assert values(config, *keys) == expected


@pytest.mark.parametrize(
    ("model_name", "eval_size", "train_size"),
    [("efficientnet-b0", 224, 176), ("efficientnet-b5", 456, 352), ("efficientnet-l2", 800, 640)],
)
def test_v1_trains_in_one_stage_at_the_official_sizes(model_name, eval_size, train_size):
    config = get_config(model_name, "imagenet")
    keys = ("eval.isize", "train.isize", "train.stages")
    assert values(config, *keys) == (eval_size, train_size, 1)


@pytest.mark.parametrize("model_name", MODELS)
def test_the_augmentation_of_the_family(model_name):
    config = get_config(model_name, "shapes")
    is_small = model_name.startswith(("efficientnetv2-b", "efficientnet-"))
    assert config.data.augname == ("autoaug" if is_small else "randaug")
    assert config.data.cutmix_alpha == 0  # It is not the paper's.


@pytest.mark.parametrize("model_name", ["keras/ResNet50", "mine.json"])
def test_other_architectures_have_settings_too(model_name):
    config = get_config(model_name, "imagenet")
    keys = ("model.model_name", "eval.isize", "train.isize", "train.stages", "data.eval_crop")
    assert values(config, *keys) == (model_name, 224, 224, 4, "v2")


def test_weights_bring_settings_that_overrides_replace():
    brought = {"data.eval_crop": "whole", "eval.isize": 200}
    config = get_config("efficientnetv2-b0", "imagenet", weights_settings=brought)
    assert values(config, "data.eval_crop", "eval.isize") == ("whole", 200)
    text = "data.eval_crop=v2"
    config = get_config("efficientnetv2-b0", "imagenet", text, weights_settings=brought)
    assert values(config, "data.eval_crop", "eval.isize") == ("v2", 200)


def test_data_sets_by_name():
    keys = ("data.ds_name", "data.tfds_name", "data.num_classes", "data.data_dir")
    assert values(get_config("efficientnetv2-b0", "shapes"), *keys) == ("shapes", None, 12, None)
    assert values(get_config("efficientnetv2-b0", "ImageNetTfds"), *keys) == (
        "tfds",
        "imagenet2012",
        1000,
        None,
    )
    named = get_config("efficientnetv2-b0", "tfds:Cifar10:3.0.2", data_dir="cache")
    assert values(named, *keys) == ("tfds", "Cifar10:3.0.2", None, "cache")
    folder = get_config("efficientnetv2-b0", "folder", data_dir="photos")
    assert values(folder, *keys) == ("folder", None, None, "photos")


def test_later_layers_win(monkeypatch):
    keys = ("model.dropout_rate", "train.epochs", "train.isize")
    layer = {"model": {"dropout_rate": 0.45}, "train": {"epochs": 60}}
    monkeypatch.setitem(dataset_presets.DATASETS, "shapes", layer)
    base_model = get_config("efficientnetv2-s", "imagenet")
    assert values(base_model, *keys) == (0.3, 350, 300)  # model over base (0.2, 350, 300)
    with_dataset = get_config("efficientnetv2-s", "shapes")
    assert values(with_dataset, *keys) == (0.45, 60, 300)  # data set over model and base
    with_overrides = get_config("efficientnetv2-s", "shapes", "model.dropout_rate=0.15")
    assert values(with_overrides, *keys) == (0.15, 60, 300)  # overrides over all


def test_data_dir_wins_over_overrides_and_those_over_the_data_set(monkeypatch):
    layer = {"data": {"ds_name": "folder", "data_dir": "first"}}
    monkeypatch.setitem(dataset_presets.DATASETS, "folder", layer)
    assert get_config("efficientnetv2-b0", "folder").data.data_dir == "first"
    second = get_config("efficientnetv2-b0", "folder", "data.data_dir=second")
    assert second.data.data_dir == "second"
    third = get_config("efficientnetv2-b0", "folder", "data.data_dir=second", data_dir="third")
    assert third.data.data_dir == "third"


def test_a_saved_config_names_its_model(tmp_path):
    config = get_config("efficientnetv2-m", "folder", "train.epochs=9", data_dir="photos")
    save_config(config, str(tmp_path / "config.yaml"))
    assert get_config(None, "shapes", str(tmp_path / "config.yaml")) == config
    assert get_config(None, "shapes").model.model_name == "efficientnetv2-b0"


def test_a_schedule_set_by_the_data_set_decides_the_values_of_the_model(monkeypatch):
    monkeypatch.setitem(dataset_presets.DATASETS, "shapes", {"train": {"schedule": "official"}})
    assert get_config("efficientnetv2-m", "shapes").data.ram == 15
    assert get_config("efficientnetv2-m", "shapes", "train.schedule=paper").data.ram == 20


@pytest.mark.parametrize(
    "model, dataset, message",
    [
        (
            "efficientnetv2-x",
            "shapes",
            "unknown model 'efficientnetv2-x'; did you mean 'efficientnetv2-xl'?",
        ),
        ("resnet", "shapes", f"unknown model 'resnet'; valid: {', '.join(MODELS)}"),
        ("efficientnetv2-s", "imagnet", "unknown data set 'imagnet'; did you mean 'imagenet'?"),
        ("efficientnetv2-s", "tfds:", "unknown data set 'tfds:'; did you mean 'tfds:NAME'?"),
        (
            "efficientnetv2-s",
            "xyzzy",
            f"unknown data set 'xyzzy'; valid: {', '.join(DATASETS)}, tfds:NAME",
        ),
    ],
)
def test_unknown_names_are_told_the_nearest(model, dataset, message):
    with pytest.raises(UserError) as error:
        get_config(model, dataset)
    assert str(error.value) == message


def test_a_second_model_name_is_a_contradiction():
    again = "model.model_name=efficientnetv2-s"
    assert get_config("efficientnetv2-s", "shapes", again).model.model_name == "efficientnetv2-s"
    with pytest.raises(UserError, match="efficientnetv2-s contradicts --model_name=.*-b0"):
        get_config("efficientnetv2-b0", "shapes", again)


def test_fine_tuning_brings_defaults_unless_the_data_set_has_its_own():
    start = "train.ft_init_ckpt=weights.h5"
    config = hparams.get_config("efficientnetv2-b0", "folder", start, data_dir="photos")
    assert (config.train.optimizer, config.train.batch_size) == ("adamw", 32)
    assert config.train.head_warmup_epoch > 0 and config.eval.best_metric == "top1"
    assert hparams.with_values(config, data__splits__train__num_images=20_000).freezes_batch_norm
    many = hparams.with_values(config, data__splits__train__num_images=20_001)
    assert not many.freezes_batch_norm
    smaller = hparams.get_config(
        "efficientnetv2-b0", "folder", f"{start},eval.isize=96,train.epochs=3", data_dir="photos"
    )
    assert (smaller.train_size, smaller.train.epochs) == (96, 3)
    preset = hparams.get_config("efficientnetv2-b0", "cifar10ft", start)
    plain = hparams.get_config("efficientnetv2-b0", "cifar10ft")
    assert hparams.differing_keys(preset, plain) == ["train.ft_init_ckpt"]
