"""Each setting of `model.…` reaches the network that is built."""

import dataclasses

import keras
import numpy as np
import pytest
from keras.layers import GroupNormalization

from efficientnetv2 import (
    Blocks,
    ModelSpec,
    build_from_config,
    get_spec,
    hparams,
    save_spec,
    spec_from_config,
)
from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams import ModelConfig
from efficientnetv2.network.model import normalization_of

SPEC = ModelSpec(
    "small",
    (
        Blocks("fused", 1, 3, 2, 2, 8, 8),
        Blocks("mbconv", 2, 3, 2, 2, 8, 16, se_ratio=0.25),
        Blocks("mbconv", 1, 3, 2, 2, 16, 24, se_ratio=0.25),
    ),
    head_channels=32,
)
KERAS = "keras/MobileNetV2"


@pytest.fixture
def small(tmp_path):
    path = str(tmp_path / "small.json")
    save_spec(SPEC, path)
    return path


def config_of(name, overrides=""):
    return hparams.get_config(name, "shapes", overrides)


def side(model):
    """Of the last features of an image of 64 pixels."""
    features = keras.Model(model.input, model.get_layer("head_conv").output)
    return features(np.zeros((1, 64, 64, 3), np.float32)).shape[1]


def block(key):
    return lambda model: model.get_layer("blocks_2").get_config()[key]


def seen(model):
    """What the first layer makes of a grey of 128."""
    return float(np.max(model.get_layer("normalization")(np.full((1, 1, 1, 3), 128.0))))


REACHES = {  # Setting: where it is seen, what is seen there by default and with the setting.
    "width_coefficient=2": [(lambda m: m.get_layer("head_conv").filters, 32, 64)],
    "depth_coefficient=2": [(lambda m: m.get_layer("blocks_3").stride, 2, 1)],
    "stem_stride=1": [(lambda m: m.get_layer("stem_conv").strides[0], 2, 1)],
    "act_fn=relu": [
        (lambda m: m.get_layer("head_act").activation is keras.activations.relu, False, True),
        (block("activation"), "silu", "relu"),
    ],
    "output_stride=8": [(side, 4, 8)],
    "normalization=imagenet": [(seen, 0.0, 0.426)],
    "normalization=inception": [(seen, 0.0, 0.004)],
    "padding=symmetric": [
        (lambda m: m.get_layer("stem_conv").symmetric, False, True),
        (block("padding"), "same", "symmetric"),
    ],
    "bn_type=gn": [
        (lambda m: isinstance(m.get_layer("stem_bn"), GroupNormalization), False, True),
        (block("norm"), "batch", "group"),
    ],
    "gn_groups=4,model.bn_type=gn": [
        (lambda m: getattr(m.get_layer("stem_bn"), "groups", None), None, 4),
        (block("gn_groups"), 8, 4),
    ],
    "bn_momentum=0.99": [
        (lambda m: m.get_layer("stem_bn").momentum, 0.9, 0.99),
        (block("bn_momentum"), 0.9, 0.99),
    ],
    "bn_epsilon=0.1": [
        (lambda m: m.get_layer("head_bn").epsilon, 1e-3, 0.1),
        (block("bn_epsilon"), 1e-3, 0.1),
    ],
    "dropout_rate=0.4": [(lambda m: m.get_layer("head_dropout").rate, 0.2, 0.4)],
    "survival_prob=0.5": [(block("drop_rate"), 0.2 * 2 / 4, 0.5 * 2 / 4)],
}


@pytest.fixture(scope="module")
def default(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("specs") / "small.json")
    save_spec(SPEC, path)
    return build_from_config(config_of(path))


@pytest.mark.parametrize("setting", REACHES)
def test_each_setting_reaches_the_network(small, default, setting):
    model = build_from_config(config_of(small, f"model.{setting}"))
    for look, before, after in REACHES[setting]:
        assert look(default) == pytest.approx(before, abs=1e-3)
        assert look(model) == pytest.approx(after, abs=1e-3)


def test_no_setting_is_left_out():
    tested = {item.removeprefix("model.").split("=")[0] for r in REACHES for item in r.split(",")}
    others = {"model_name", "dropout_base"}  # The name is in all of them; the trainer takes that.
    assert tested | others == {field.name for field in dataclasses.fields(ModelConfig)}


@pytest.mark.parametrize("name", ["efficientnetv2-b3", "efficientnetv2-m", "efficientnet-b4"])
def test_without_overrides_it_is_the_named_network(name):
    config = config_of(name).model
    spec = dataclasses.replace(get_spec(name), dropout_rate=config.dropout_rate)
    assert spec_from_config(config) == spec
    assert normalization_of(config) == spec.normalization


def test_classes_and_synchronised_statistics_are_passed_on(small):
    config = config_of(small, "data.num_classes=7")
    model = build_from_config(config, bn_synchronized=True)
    assert model.get_layer("stem_bn").synchronized
    assert model.output_shape == (None, 7)


def test_a_json_architecture_keeps_what_it_says_of_itself(tmp_path):
    """All but dropout, which the config raises from stage to stage."""
    said = {
        "width_coefficient": 2.0,
        "depth_coefficient": 2.0,
        "drop_path_rate": 0.4,
        "normalization": "inception",
        "stem_stride": 1,
        "output_stride": 16,
        "padding": "symmetric",
        "activation": "relu",
        "norm": "group",
        "gn_groups": 4,
        "bn_momentum": 0.8,
        "bn_epsilon": 1e-5,
        "keep_90_percent": True,
    }
    spec = dataclasses.replace(SPEC, dropout_rate=0.7, **said)
    assert {
        f.name
        for f in dataclasses.fields(ModelSpec)
        if getattr(SPEC, f.name) != getattr(spec, f.name)
    } == {*said, "dropout_rate"}
    path = str(tmp_path / "own.json")
    save_spec(spec, path)
    config = config_of(path, "model.dropout_rate=0.3").model
    assert spec_from_config(config) == dataclasses.replace(spec, dropout_rate=0.3)
    changed = config_of(path, "model.act_fn=elu,model.padding=same,model.survival_prob=0.9").model
    assert spec_from_config(changed).activation == "elu"
    assert spec_from_config(changed).padding == "same"
    assert spec_from_config(changed).drop_path_rate == pytest.approx(0.1)
    assert normalization_of(changed) == "inception"


@pytest.mark.parametrize(
    "overrides, message",
    [
        ("model.bn_type=gn,model.gn_groups=3", "gn_groups=3 must divide all channels, so [8, 16,"),
        ("model.width_coefficient=1000", "width_coefficient must be from 0.001 to 100, got 1000"),
        ("model.depth_coefficient=1e9", "depth_coefficient must be from 0.001 to 100, got 10000"),
    ],
)
def test_settings_that_no_network_can_have_name_the_model(small, overrides, message):
    with pytest.raises(UserError) as error:
        build_from_config(config_of(small, overrides))
    assert str(error.value).startswith(f"{small}: {message}")


@pytest.mark.parametrize("setting", [setting.split(",")[0] for setting in REACHES])
def test_an_architecture_of_keras_refuses_settings_that_it_lacks(setting):
    key, value = setting.split("=")
    if key == "dropout_rate":
        model = build_from_config(config_of(KERAS, f"model.{setting}"))
        assert model.get_layer("head_dropout").rate == float(value)
        assert model.output_shape == (None, 12)
        assert normalization_of(config_of(KERAS).model) == "of keras/MobileNetV2"
    else:
        with pytest.raises(UserError, match=f"^{KERAS} has no model.{key}; leave them out$"):
            build_from_config(config_of(KERAS, f"model.{setting}"))


@pytest.mark.parametrize(
    "overrides, message",
    [
        ("eval.isize=31", "at least 32 pixels, got eval.isize=31"),
        ("data.ibase=17,train.isize=64", "at least 32 pixels, got the first stage's size=17"),
    ],
)
def test_images_that_an_architecture_of_keras_cannot_take_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        build_from_config(config_of(KERAS, overrides))
    with pytest.raises(UserError, match="keras/Xception takes images of at least 71 pixels, got"):
        build_from_config(config_of("keras/Xception", "eval.isize=70"))
