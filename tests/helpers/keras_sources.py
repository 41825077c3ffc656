"""Networks of keras.applications to load, with weights by the rule of `golden.py`."""

from unittest import mock

import keras
import numpy as np
from golden import golden_input, golden_weight
from keras.src.applications import efficientnet, efficientnet_v2

from efficientnetv2 import Blocks, ModelSpec, load_weights
from efficientnetv2.network.compat import tf_variable, var_path

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 5
SIZE = 32  # pixels, of the small networks
WARNINGS = (  # Of Keras 2, about its own files.
    "ignore:You are saving your model as an HDF5 file",
    "ignore:The `keras.initializers.serialize",
)
_WIDTH = 0.02
_ROWS = (  # kind, repeats, kernel, stride, expand, channels in and out before scaling, SE
    ("fused", 1, 3, 1, 1, 400, 400, 0),
    ("fused", 1, 3, 2, 4, 400, 560, 0),
    ("mbconv", 2, 3, 2, 4, 560, 800, 0.25),
)
_V1_ROWS = (
    ("mbconv", 1, 3, 1, 1, 400, 400, 0.25),
    ("mbconv", 2, 5, 2, 4, 400, 560, 0.25),  # 11.2 channels become 16 in V1 and 8 in V2.
)
V2_SPEC = ModelSpec(
    "small_v2", tuple(Blocks(*row) for row in _ROWS), _WIDTH, normalization="imagenet"
)
V1_SPEC = ModelSpec(
    "small_v1",
    (Blocks("mbconv", 1, 3, 1, 1, 32, 400, 0.25), Blocks(*_V1_ROWS[1])),
    _WIDTH,
    normalization="imagenet",
    keep_90_percent=True,
)


def small_v2(*, top=True, include_preprocessing=True, name="efficientnetv2-b0", side=SIZE):
    """A small EfficientNetV2; its name decides on its preprocessing, as in keras.applications."""
    rows = [
        {
            "conv_type": int(kind == "fused"),
            "num_repeat": repeats,
            "kernel_size": kernel,
            "strides": stride,
            "expand_ratio": expand,
            "input_filters": channels_in,
            "output_filters": channels,
            "se_ratio": se_ratio,
        }
        for kind, repeats, kernel, stride, expand, channels_in, channels, se_ratio in _ROWS
    ]
    # The name's keyword differs between the Kerases, its position does not.
    settings = (_WIDTH, 1.0, SIZE, 0.2, 0.2, 8, 8, 0.9, "swish", rows, name)
    return efficientnet_v2.EfficientNetV2(
        *settings,
        weights=None,
        include_top=top,
        pooling=None if top else "avg",
        input_shape=(side, side, 3),
        classes=CLASSES,
        classifier_activation=None,
        include_preprocessing=include_preprocessing,
    )


def small_v1(*, as_published: bool):
    """A small EfficientNetV1; as the published ones it has a rescaling more, see `set_weights`."""
    rows = [
        {
            "repeats": repeats,
            "kernel_size": kernel,
            "strides": stride,
            "expand_ratio": expand,
            "filters_in": channels_in,
            "filters_out": channels,
            "se_ratio": se_ratio,
            "id_skip": True,
        }
        for _, repeats, kernel, stride, expand, channels_in, channels, se_ratio in _V1_ROWS
    ]
    settings = (_WIDTH, 1.0, SIZE, 0.2, 0.2, 8, "swish", rows, "efficientnetb0", False)
    files = "file_utils" if hasattr(efficientnet, "file_utils") else "data_utils"
    with (
        mock.patch.object(getattr(efficientnet, files), "get_file"),  # Nothing is downloaded.
        mock.patch.object(keras.Model, "load_weights"),
    ):
        base = efficientnet.EfficientNet(
            *settings,
            weights="imagenet" if as_published else None,
            input_shape=(SIZE, SIZE, 3),
            pooling="avg",
            **({"weights_name": "b0"} if files == "file_utils" else {}),
        )
    return with_classifier(base, "predictions")


def with_classifier(base, name, classes=CLASSES):
    """The layers of `base` and a dense one, in one flat model."""
    return keras.Model(base.input, keras.layers.Dense(classes, name=name)(base.output))


def set_weights(model, gain=1.35, variance=tuple(value**2 for value in STD)):
    """Gives each weight values that follow from its name; those of V1's Normalization are set."""
    for layer in model.layers:
        for weight in layer.weights:
            kind = weight.name.split("/")[-1].split(":")[0]
            if isinstance(layer, keras.layers.Normalization):
                value = {"mean": MEAN, "variance": variance, "count": 1}[kind]
            else:
                if isinstance(layer, keras.layers.DepthwiseConv2D):
                    kind = "depthwise_kernel"  # Keras 3 calls it kernel.
                value = golden_weight(f"{layer.name}/{kind}", tuple(weight.shape), gain)
            tf_variable(weight).assign(value)
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def pixels(size: int) -> np.ndarray:
    """Two images, float32 [2, size, size, 3] in [0, 255]."""
    return (golden_input(size) + 1) * np.float32(127.5)


def logits(model, images) -> np.ndarray:
    """What a model says in inference mode."""
    return np.asarray(model(images, training=False))


def check_logits(model, path, expected, images):
    """Loads a file into `model`, which must then say the same, within what float32 allows."""
    for weight in model.weights:
        tf_variable(weight).assign(np.zeros(weight.shape, np.float32))
    report = load_weights(model, path)
    assert set(report.loaded) == set(map(var_path, model.weights))
    assert report.missing == report.unexpected == report.mismatched == report.unused == ()
    difference = np.abs(logits(model, images) - expected)
    np.testing.assert_array_less(difference, 1e-4 * np.std(expected))
