"""The network against figures of the official code."""

import dataclasses

import golden
import numpy as np
import pytest

import efficientnetv2
from efficientnetv2 import hparams
from efficientnetv2.network.counts import count
from efficientnetv2.network.profile import profile_built
from efficientnetv2.weights.tf_checkpoint import official_names

OFFICIAL = {  # Official counts with 1000 classes.
    "efficientnetv2-b0": (7_200_312, 7_139_704),
    "efficientnetv2-b1": (8_212_124, 8_141_052),
    "efficientnetv2-b2": (10_178_374, 10_096_086),
    "efficientnetv2-b3": (14_467_622, 14_358_406),
    "efficientnetv2-s": (21_612_360, 21_458_488),
    "efficientnetv2-m": (54_431_388, 54_139_356),
    "efficientnetv2-l": (119_027_848, 118_515_272),
    "efficientnetv2-xl": (208_896_832, 208_119_808),
    "efficientnet-b0": (5_330_564, 5_288_548),
    "efficientnet-b1": (7_856_232, 7_794_184),
    "efficientnet-b2": (9_177_562, 9_109_994),
    "efficientnet-b4": (19_466_816, 19_341_616),
    "efficientnet-b5": (30_562_520, 30_389_784),
    "efficientnet-b6": (43_265_136, 43_040_704),
    "efficientnet-b7": (66_658_680, 66_347_960),
    "efficientnet-b8": (87_793_174, 87_413_142),
}


# The published B3 of V1 has 24 channels in its first stage, as `keras.applications` has; the
# official code builds 16. The others that it does not build follow from the papers' tables.
NOT_OFFICIAL = {
    "efficientnet-b3": (12_320_528, 12_233_232),
    "efficientnet-l2": (481_399_996, 480_309_308),
    "efficientnetv2-s-arxiv-v1": (24_100_800, 23_940_048),
    "efficientnet-b4-fused-1-3": (21_067_086, 20_945_870),
    "efficientnet-b4-fused-1-5": (43_631_024, 43_528_144),
    "efficientnet-b4-fused-1-7": (132_191_096, 132_121_624),
}
SAME_AS = {"efficientnet-l2_475": "efficientnet-l2"}
SLOW = ("efficientnet-l2",)


def official_variables(model, root):
    return {f"{root}/{name}" for name in official_names(model).values()}


@pytest.mark.parametrize("name", golden.NAMES)
def test_variables_are_those_of_the_official_code(name):
    figures = golden.load_golden(name)
    model = efficientnetv2.build_model(name)
    assert official_variables(model, name) == {variable for variable, _ in figures["variables"]}
    assert model.count_params() == figures["params"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in efficientnetv2.list_models()
        if name not in SAME_AS
    ],
)
def test_parameter_counts(name):
    model = efficientnetv2.build_model(name, input_shape=(64, 64, 3))
    trainable = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert (model.count_params(), trainable) == {**OFFICIAL, **NOT_OFFICIAL}[name]
    # So that published figures can be compared with counts of what is not built.
    built, counted = profile_built(model), count(efficientnetv2.get_spec(name), 64)
    for field in ("params", "trainable_params", "macs", "activations"):
        assert getattr(counted, field) == getattr(built, field), field


def test_models_of_equal_architecture():
    for name, other in SAME_AS.items():
        same = dataclasses.replace(efficientnetv2.get_spec(name), name=other)
        assert same == efficientnetv2.get_spec(other)


def test_every_model_has_hyperparameters():
    assert efficientnetv2.list_models() == list(hparams.MODELS)
