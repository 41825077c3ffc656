"""Grad-CAM on networks with a known answer."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_run

from efficientnetv2 import build_model
from efficientnetv2.common.errors import UserError
from efficientnetv2.report.evaluate import grad_cam


@pytest.fixture(autouse=True)
def same_weights():
    keras.utils.set_random_seed(1)


def patch_model():
    """Red decides class 0, blue class 1; both by a convolution, pooling and a classifier."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(3, 2, 2, use_bias=False, activation="relu")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    kernel = np.zeros((2, 2, 3, 3), np.float32)
    kernel[:, :, range(3), range(3)] = 0.25
    classifier = np.array([[1, -1], [0, 0], [-1, 1]], np.float32)
    model.set_weights([kernel, classifier, np.zeros(2, np.float32)])
    return model


def patches():
    """Red at the top left, blue at the bottom right, half as bright blue in between."""
    images = np.zeros((2, 16, 16, 3), np.uint8)
    images[:, 2:4, 4:8, 0] = 200
    images[:, 12:14, 12:14, 2] = 200
    images[:, 8:10, 8:10, 2] = 100
    return images


def test_the_patch_that_decides_is_found():
    red, blue = grad_cam(patch_model(), patches(), [0, 1])
    expected = np.zeros((8, 8), np.float32)
    expected[1, 2:4] = 1
    np.testing.assert_allclose(red, expected, atol=1e-6)
    expected[:] = 0
    expected[6, 6], expected[4, 4] = 1, 0.5
    np.testing.assert_allclose(blue, expected, atol=1e-6)
    assert red.dtype == np.float32


def test_where_nothing_speaks_for_a_class_the_map_is_zero():
    images = patches()
    images[..., 2] = 0
    assert not grad_cam(patch_model(), images, [1, 1]).any()


def cam(model, features, classes):
    """What Grad-CAM is for pooling and a classifier: features times its kernel. arXiv 1512.04150"""
    kernel = np.asarray(model.get_layer("classifier").kernel)
    maps = np.maximum(np.einsum("bhwc,cb->bhw", features, kernel[:, classes]), 0)
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12)


def check_network(model, features, size):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    before = [np.asarray(w) for w in model.weights]
    classes = [2, 0, 1]
    maps = grad_cam(model, images, classes)
    np.testing.assert_allclose(maps, cam(model, features(images), classes), atol=1e-4)
    assert maps.max() == 1
    again = grad_cam(model, images, classes)  # Asking leaves no trace in the model.
    np.testing.assert_array_equal(maps, again)
    assert all((a == np.asarray(w)).all() for a, w in zip(before, model.weights))
    assert tuple(model.get_layer("head_dropout").input.shape)  # One call of each layer.


def test_a_network_of_ours():
    model = tiny_run.make_model()
    body = keras.Model(model.inputs, model.get_layer("head_act").output)
    features = lambda images: np.asarray(body(tf.cast(images, tf.float32)))  # noqa: E731
    check_network(model, features, 48)


def test_a_frozen_network_has_maps_too():
    model = tiny_run.make_model()
    images = np.random.default_rng(1).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8)
    free = grad_cam(model, images, [0, 1])
    model.trainable = False
    np.testing.assert_array_equal(grad_cam(model, images, [0, 1]), free)


@pytest.mark.parametrize("name", ["keras/MobileNetV2", "keras/VGG16"])
def test_a_network_of_keras(name):
    """VGG16 is preceded by a preprocessing of ours."""
    model = build_model(name, num_classes=3, input_shape=(64, 64, 3))
    body = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    last = keras.Model(body.inputs, body.layers[-2].output)

    def features(images):
        x = tf.cast(images, tf.float32)
        for layer in model.layers[1 : model.layers.index(body)]:
            x = layer(x)
        return np.asarray(last(x))

    check_network(model, features, 64)


def test_a_model_without_pooling_is_an_error():
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs), name="flat")
    with pytest.raises(UserError, match="flat has no global average pooling, which Grad-CAM needs"):
        grad_cam(model, np.zeros((1, 4, 4, 3)), [0])
