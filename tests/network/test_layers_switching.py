"""What weights may change in a network that is built."""

import keras
import numpy as np
import pytest

import efficientnetv2
from efficientnetv2 import Blocks, ModelSpec, build_model
from efficientnetv2.network.layers import padding_of

SPEC = ModelSpec(
    "two_blocks",
    (
        Blocks("fused", 1, 3, 2, 2, 8, 8),
        Blocks("mbconv", 1, 5, 2, 2, 8, 16, se_ratio=0.25),
    ),
    head_channels=8,
)
KINDS = ("centered", "inception", "imagenet")


def images(size, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 255, (2, size, size, 3)).astype(np.float32)


@pytest.mark.parametrize("before", KINDS)
@pytest.mark.parametrize("after", KINDS)
def test_a_switched_normalization_is_that_of_a_network_built_with_it(before, after):
    switched = build_model(SPEC, num_classes=3, normalization=before)
    built = build_model(SPEC, num_classes=3, normalization=after)
    built.set_weights(switched.get_weights())
    x = images(16)
    switched.predict(x, verbose=0)  # Traced with what was.
    assert efficientnetv2.set_normalization(switched, after) == (before != after)
    expected = built.predict(x, verbose=0)
    np.testing.assert_allclose(switched.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6)
    again = keras.Model.from_config(switched.get_config())
    again.set_weights(switched.get_weights())
    np.testing.assert_allclose(again.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6)


def test_a_network_without_preprocessing_has_none_to_switch():
    model = build_model(SPEC, num_classes=3, include_preprocessing=False)
    assert not efficientnetv2.set_normalization(model, "imagenet")


@pytest.mark.parametrize("size", [16, 17])
@pytest.mark.parametrize("after", ["same", "symmetric"])
def test_a_switched_padding_is_that_of_a_network_built_with_it(size, after):
    before = "symmetric" if after == "same" else "same"
    switched = build_model(SPEC, num_classes=3, padding=before)
    built = build_model(SPEC, num_classes=3, padding=after)
    built.set_weights(switched.get_weights())
    x = images(size)
    old = switched.predict(x, verbose=0)
    assert padding_of(switched) == before
    efficientnetv2.set_padding(switched, after)
    assert padding_of(switched) == after
    expected = built.predict(x, verbose=0)
    np.testing.assert_allclose(switched.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(old - expected).max() > 1e-4 or size == 17  # An odd size is padded alike.
    again = keras.Model.from_config(switched.get_config())
    again.set_weights(switched.get_weights())
    np.testing.assert_allclose(again.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6)


def test_symmetric_padding_is_that_of_pytorch():
    """kernel // 2 zeros on every side, then a valid convolution."""
    model = build_model(SPEC, include_top=False, include_preprocessing=False, padding="symmetric")
    stem = keras.Model(model.input, model.get_layer("stem_conv").output)
    x = images(6)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = np.asarray(model.get_layer("stem_conv").kernel)
    expected = np.zeros((2, 3, 3, 8), np.float32)
    for row in range(3):
        for column in range(3):
            window = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            expected[:, row, column] = np.einsum("bhwc,hwcf->bf", window, kernel)
    np.testing.assert_allclose(np.asarray(stem(x)), expected, rtol=1e-4, atol=1e-2)
