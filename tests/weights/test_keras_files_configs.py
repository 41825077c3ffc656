"""What the configuration in a Keras file says of the images."""

import keras
import keras_sources
import numpy as np
import pytest
from keras_sources import CLASSES, MEAN, SIZE, STD, V1_SPEC, V2_SPEC, small_v1, small_v2

from efficientnetv2 import build_model, load_weights
from efficientnetv2.common.errors import UserError
from efficientnetv2.weights.load import read_weights

VARIANCE = tuple(value**2 for value in STD)
AS_PUBLISHED = STD  # Keras' files have it in the place of the variance.
pytestmark = pytest.mark.filterwarnings(*keras_sources.WARNINGS)


def save(model, folder):
    """The two kinds of file that have a configuration."""
    paths = [str(folder / f"saved{ending}") for ending in (".h5", ".keras")]
    for path in paths:
        model.save(path)
    return paths


@pytest.mark.parametrize(
    "settings, normalization",
    [
        ({"name": "efficientnetv2-s"}, "centered"),
        ({"name": "efficientnetv2-b0"}, "imagenet"),
        ({"include_preprocessing": False}, None),
    ],
)
def test_the_normalization_of_v2(tmp_path, settings, normalization):
    for path in save(small_v2(**settings), tmp_path):
        assert read_weights(path).preprocessing.normalization == normalization


@pytest.mark.parametrize(
    "rescalings, normalization",
    [
        ([(1 / 127.5, -1)], "inception"),
        ([(1 / 255, 0), (2, -1)], "inception"),
        ([(1 / 128, -1)], "centered"),
    ],
)
def test_layers_before_the_network_count(tmp_path, rescalings, normalization):
    layers = [keras.layers.Resizing(SIZE, SIZE)]
    layers += [keras.layers.Rescaling(scale, offset) for scale, offset in rescalings]
    inputs = keras.Input((SIZE, SIZE, 3))
    network = keras.Sequential([inputs, *layers, small_v2(include_preprocessing=False)])
    for path in save(network, tmp_path):
        assert read_weights(path).preprocessing.normalization == normalization


@pytest.mark.parametrize("side", [None, 48])
def test_the_image_size(tmp_path, side):
    for path in save(small_v2(top=False, side=side), tmp_path):
        stored = read_weights(path)
        assert (stored.preprocessing.image_size, stored.num_classes) == (side, None)


@pytest.mark.parametrize(
    "as_published, variance, normalization",
    [
        (True, AS_PUBLISHED, "imagenet"),
        (False, VARIANCE, "imagenet"),
        (False, AS_PUBLISHED, None),  # As Keras before 2.10 computed it.
        (False, (1.0, 1.0, 1.0), None),
    ],
)
def test_the_normalization_of_v1(tmp_path, as_published, variance, normalization):
    network = small_v1(as_published=as_published)
    keras_sources.set_weights(network, variance=variance)
    images = keras_sources.pixels(SIZE)
    expected = keras_sources.logits(network, images)
    model = build_model(V1_SPEC, num_classes=CLASSES)
    bare = build_model(V1_SPEC, num_classes=CLASSES, include_preprocessing=False)
    prepared = ((images / 255 - MEAN) / np.sqrt(variance)).astype(np.float32)
    for path in save(network, tmp_path):
        assert read_weights(path).preprocessing.normalization == normalization
        if normalization:
            keras_sources.check_logits(model, path, expected, images)
            continue
        with pytest.raises(UserError, match=r"multiplies pixels / 255 by .* include_prep") as error:
            load_weights(model, path)
        assert "\n" not in str(error.value)
        keras_sources.check_logits(bare, path, expected, prepared)


def test_code_in_a_file_is_not_run(tmp_path):
    network, ran = small_v2(top=False, include_preprocessing=False), []
    inputs = keras.Input((SIZE, SIZE, 3))
    trap = keras.layers.Lambda(lambda x: (ran.append(1), x)[1])
    paths = save(keras.Model(inputs, network(trap(inputs))), tmp_path)
    ran.clear()
    for path in paths:
        with pytest.raises(UserError, match="passes them through a Lambda layer"):
            load_weights(build_model(V2_SPEC, include_top=False), path)
        load_weights(build_model(V2_SPEC, include_top=False, include_preprocessing=False), path)
    assert not ran
