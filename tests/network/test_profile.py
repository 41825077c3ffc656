"""Profiles of whole networks, against counts of timm's networks and published figures."""

import keras
import pytest

from efficientnetv2 import get_spec
from efficientnetv2.common.errors import UserError
from efficientnetv2.network.profile import profile_built, profile_model

# Counted once on the networks of timm 1.0.31, by hooks on its convolutions and dense layers.
TIMM = {
    "efficientnetv2-b0": (224, 7_200_312, 7_139_704, 718_086_176, 4_773_400),
    "efficientnetv2-s": (384, 21_612_360, 21_458_488, 8_365_617_152, 35_766_624),
    "efficientnet-b1": (240, 7_856_232, 7_794_184, 686_802_832, 10_884_328),
}


@pytest.mark.parametrize("name", TIMM)
def test_counts_are_those_of_timm(name):
    size, params, trainable, macs, activations = TIMM[name]
    profile = profile_model(name, size)
    assert (profile.model, profile.image_size) == (name, size)
    assert (profile.params, profile.trainable_params) == (params, trainable)
    assert (profile.macs, profile.activations) == (macs, activations)
    assert profile.megabytes == params * 4 / 1e6
    for what in ("params", "macs", "activations"):
        assert sum(getattr(part, what) for part in profile.parts) == getattr(profile, what)
    first = profile.published[0]
    assert first.params_agree(profile.params, profile.trainable_params)
    assert first.macs_agree(profile.macs)


def test_parts_are_the_rows_of_the_specification():
    profile = profile_model("efficientnetv2-b0", 32)
    stages = [f"stage {index}" for index in range(1, 7)]
    assert [part.name for part in profile.parts] == ["stem", *stages, "head", "classifier"]


def test_a_specification_comes_without_published_figures():
    spec = get_spec("efficientnetv2-b0")
    assert profile_model(spec, 32).published == ()


def test_an_architecture_of_keras():
    profile = profile_model("keras/MobileNetV2", 64)
    assert profile.model == "keras/MobileNetV2"
    assert profile.params == keras.applications.MobileNetV2(weights=None).count_params()
    assert [part.name for part in profile.parts] == [
        *(f"{size}x{size}" for size in (32, 16, 8, 4, 2)),
        "classifier",
    ]


@pytest.mark.parametrize("size", [0, 224.0, None])
def test_a_bad_size_is_an_error(size):
    with pytest.raises(UserError, match=f"positive number of pixels, got {size}"):
        profile_model("efficientnetv2-b0", size)


def test_an_unknown_name_is_an_error():
    with pytest.raises(UserError, match="efficientnetv2-b9"):
        profile_model("efficientnetv2-b9", 224)


@pytest.mark.parametrize("shape", [(32, 64, 3), (None, None, 3), (32,)])
def test_an_input_that_is_not_a_square_image_is_an_error(shape):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, keras.layers.ReLU()(inputs), name="odd")
    with pytest.raises(UserError, match="cannot profile odd"):
        profile_built(model)
