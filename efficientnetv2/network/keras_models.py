"""Architectures of `keras.applications` with this project's interface, such as "keras/ResNet50".

Keras builds the body; preprocessing, pooling, dropout and classifier are this project's, so that
the same commands train any of them, such as the ResNets of the paper's Table 12.
"""

import inspect

import keras
from absl import logging

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.text import one_line
from efficientnetv2.hparams import nearest
from efficientnetv2.network.compat import numbered_from_zero
from efficientnetv2.network.layers import HeadDropout, normalization

PREFIX = "keras/"
# Preprocessing by `preprocess_input` of each module; None: its networks include preprocessing.
_PREPROCESSING = {
    "convnext": None,
    "densenet": "imagenet",
    "efficientnet": None,
    "efficientnet_v2": None,
    "inception_resnet_v2": "inception",
    "inception_v3": "inception",
    "mobilenet": "inception",
    "mobilenet_v2": "inception",
    "mobilenet_v3": None,
    "nasnet": "inception",
    "regnet": None,
    "resnet": "caffe",
    "resnet_rs": None,
    "resnet_v2": "inception",
    "vgg16": "caffe",
    "vgg19": "caffe",
    "xception": "inception",
}
_SMALLEST = {"inception_resnet_v2": 75, "inception_v3": 75, "xception": 71}  # Pixels; others 32.
_CAFFE_MEAN = (103.939, 116.779, 123.68)  # Blue, green, red. Source: keras.applications.


def list_keras_models() -> list[str]:
    """Returns the architectures of the installed Keras, such as "keras/ResNet50"."""
    names = (name for name in dir(keras.applications) if name[0].isupper())
    return [PREFIX + name for name in names]


@keras.saving.register_keras_serializable("efficientnetv2")
class CaffePreprocessing(keras.layers.Layer):
    """Converts RGB in [0, 255] to BGR and subtracts the channel means.

    Shapes: [B, H, W, 3] -> same, float. Source: keras.applications, mode "caffe".
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.join = keras.layers.Concatenate(name="join")
        offset = [-mean for mean in _CAFFE_MEAN]
        self.shift = keras.layers.Rescaling(1.0, offset=offset, name="shift")

    def build(self, input_shape):
        self.join.build([(*input_shape[:-1], 1)] * 3)
        self.shift.build(input_shape)
        super().build(input_shape)

    def call(self, inputs):
        return self.shift(self.join([inputs[..., i : i + 1] for i in (2, 1, 0)]))

    def compute_output_shape(self, input_shape):
        return input_shape


def build_keras_model(
    name: str,
    *,
    num_classes: int = 1000,
    include_top: bool = True,
    include_preprocessing: bool = True,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    weights: str | None = None,
    dropout_rate: float = 0.0,
    **unsupported,
) -> keras.Model:
    """Returns `keras.applications.NAME` with this project's preprocessing, head and shapes.

    Layers after the body's last features other than pooling and classifier (VGG's dense layers,
    MobileNetV3's last convolution) are left out. BatchNorm is that of Keras: each replica of a
    strategy normalizes its own part of a batch.
    `weights`: a file with the body's weights in a format that Keras reads, or "imagenet", which
    Keras downloads; the classifier is initialized at random, with a warning.
    Raises: UserError for an unknown name, a setting or an input shape that these architectures do
    not support, or weights that cannot be downloaded or read.
    """
    if unsupported:
        raise UserError(f"{name} has no setting {', '.join(unsupported)}; it is built by Keras")
    constructor = _constructor(name)
    if include_preprocessing and input_shape[-1] != 3:
        raise UserError(
            f"{name} takes 3 channels, got {input_shape[-1]}; for another number build it with "
            "include_preprocessing=False"
        )
    if _module(constructor) == "nasnet" and None in input_shape:
        raise UserError(
            f"{name} is built for one image size: build_model needs an input_shape such as "
            "(224, 224, 3), and no stages can train it"
        )
    prepare = preprocessing_layer(name)
    more = {}
    if prepare is None and not include_preprocessing:
        if "include_preprocessing" not in inspect.signature(constructor).parameters:
            raise UserError(f"{name} normalises inside; build it with include_preprocessing=True")
        more["include_preprocessing"] = False
    body = _body(name, constructor, input_shape=input_shape, weights=weights, **more)
    inputs = x = keras.Input(input_shape, name="image")
    if include_preprocessing and prepare is not None:
        x = prepare(x)
    x = keras.layers.Activation("linear", name="head_pool")(body(x))
    x = HeadDropout(dropout_rate, name="head_dropout")(x)
    if include_top:
        if weights is not None:
            logging.warning("%s has the weights of %s but in its classifier", name, weights)
        x = keras.layers.Dense(num_classes, dtype="float32", name="classifier")(x)
    return keras.Model(inputs, x, name=name.removeprefix(PREFIX))


def _body(name: str, constructor, **settings) -> keras.Model:
    """Builds the model of the pooled features; errors of Keras become one-line UserErrors."""
    try:
        with numbered_from_zero():
            return constructor(include_top=False, pooling="avg", **settings)
    except Exception as error:
        # Keras raises a plain Exception if a download fails.
        if not isinstance(error, (ValueError, OSError)) and type(error) is not Exception:
            raise
        raise UserError(f"{name}: {one_line(str(error), 300)}") from error


def preprocessing_layer(name: str) -> keras.layers.Layer | None:
    """Returns the layer that maps pixels in [0, 255] to the body's input; None: the body does it.

    Raises: UserError for an unknown name, or an architecture whose preprocessing is unknown.
    """
    module = _module(_constructor(name))
    if module not in _PREPROCESSING:
        raise UserError(f"the preprocessing of {name} is not known here; name another architecture")
    kind = _PREPROCESSING[module]
    if kind == "caffe":
        return CaffePreprocessing(name="normalization")
    return normalization(kind) if kind else None


def smallest_image(name: str) -> int:
    """Returns the minimum height and width in pixels that Keras allows."""
    return _SMALLEST.get(_module(_constructor(name)), 32)


def _constructor(name: str):
    known = list_keras_models()
    if name not in known:
        raise UserError(
            f"Keras {keras.__version__} has no architecture {name!r}{nearest(name, known)}"
        )
    return getattr(keras.applications, name.removeprefix(PREFIX))


def _module(constructor) -> str:
    return constructor.__module__.rsplit(".", 1)[-1]
