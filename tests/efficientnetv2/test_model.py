"""The network against figures of the official code."""

import json
import pathlib
import zlib

import numpy as np
import pytest

import efficientnetv2
import hparams
from efficientnetv2.compat import var_path
from efficientnetv2.weights.official_names import official_names

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "models"
TRAINABLE = {  # Official counts with 1000 classes.
    "efficientnetv2-b0": (7_200_312, 7_139_704),
    "efficientnetv2-b1": (8_212_124, 8_141_052),
    "efficientnetv2-b2": (10_178_374, 10_096_086),
    "efficientnetv2-b3": (14_467_622, 14_358_406),
    "efficientnetv2-s": (21_612_360, 21_458_488),
    "efficientnetv2-m": (54_431_388, 54_139_356),
    "efficientnetv2-l": (119_027_848, 118_515_272),
    "efficientnetv2-xl": (208_896_832, 208_119_808),
}


def golden_weight(name, shape, gain):
    n = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    kind = name.rsplit("/", 1)[1]
    if kind == "kernel":
        return n * np.sqrt(gain / np.prod(shape[:-1]))
    if kind == "depthwise_kernel":
        return n * np.sqrt(gain / np.prod(shape[:2]))
    return {"gamma": 1 + 0.1 * n, "moving_variance": np.exp(0.2 * n)}.get(kind, 0.1 * n)


def golden_input(size):
    rng = np.random.default_rng(size)
    coarse = rng.uniform(-1, 1, (2, 4, 4, 3)).astype(np.float32)
    repeat = -(-size // 4)
    coarse = coarse.repeat(repeat, axis=1).repeat(repeat, axis=2)[:, :size, :size]
    return (0.9 * coarse + 0.1 * rng.uniform(-1, 1, coarse.shape)).astype(np.float32)


def set_golden_weights(model, golden):
    names = official_names(model)
    for weight in model.weights:
        name = f"{golden['model']}/{names[var_path(weight)]}"
        weight.assign(golden_weight(name, tuple(weight.shape), golden["gain"]))


@pytest.mark.parametrize("name", ["efficientnetv2-b0", "efficientnetv2-s"])
def test_forward_pass_agrees_with_the_official_code(name):
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    model = efficientnetv2.build_model(name, include_preprocessing=False)
    official = {f"{name}/{n}" for n in official_names(model).values()}
    assert official == {variable for variable, _ in golden["variables"]}

    set_golden_weights(model, golden)
    logits = model.predict(golden_input(golden["size"]), verbose=0)

    scale = np.array(golden["logits_std"])[:, None]
    np.testing.assert_array_less(np.abs(logits[:, :32] - golden["logits_head"]) / scale, 1e-4)
    np.testing.assert_allclose(logits.std(axis=1), golden["logits_std"], rtol=1e-4)
    np.testing.assert_array_equal(logits.argmax(axis=1), golden["argmax"])
    assert logits.dtype == np.float32


@pytest.mark.parametrize("name", efficientnetv2.list_models())
def test_parameter_counts_are_the_official_ones(name):
    model = efficientnetv2.build_model(name)
    trainable = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert (model.count_params(), trainable) == TRAINABLE[name]


def test_every_model_has_hyperparameters():
    assert efficientnetv2.list_models() == list(hparams.MODELS)
