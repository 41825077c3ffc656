"""Further augmentation by layers of keras-cv: `data.extra_augment=RandomHue(factor=0.3)+GridMask`.

Layers are named with literal keyword arguments and joined by "+"; they are applied in that order,
after RandAugment and before Mixup. The result is a function of the pixels and a seed.
"""

import ast
import inspect
import re
from collections.abc import Callable

import tensorflow as tf

from datasets.keyed_draws import KeyedDraws, draw_from, import_keras_cv, stateful_draws
from hparams import UserError, nearest

# Layers that keep the size of an image and need no label, with the arguments that they have if none
# are written; others have keras-cv's defaults.
LAYERS: dict[str, dict] = {
    "AugMix": {},
    "AutoContrast": {},
    "ChannelShuffle": {},
    "Equalization": {},
    "Grayscale": {"output_channels": 3},
    "GridMask": {},
    "Posterization": {"bits": 4},
    "RandAugment": {},
    "RandomBrightness": {"factor": 0.3},
    "RandomChannelShift": {"factor": 0.3},
    "RandomColorDegeneration": {"factor": (0.0, 1.0)},
    "RandomColorJitter": {
        "brightness_factor": 0.2,
        "contrast_factor": 0.2,
        "saturation_factor": (0.3, 0.7),
        "hue_factor": 0.1,
    },
    "RandomContrast": {"factor": 0.5},
    "RandomCutout": {"height_factor": 0.5, "width_factor": 0.5},
    "RandomFlip": {},
    "RandomGaussianBlur": {"kernel_size": 9, "factor": (0.0, 2.0)},
    "RandomHue": {"factor": 0.3},
    "RandomJpegQuality": {"factor": (20, 95)},
    "RandomRotation": {"factor": 0.1},
    "RandomSaturation": {"factor": (0.2, 0.8)},
    "RandomSharpness": {"factor": (0.0, 1.0)},
    "RandomShear": {"x_factor": 0.3, "y_factor": 0.3},
    "RandomTranslation": {"height_factor": 0.2, "width_factor": 0.2},
    "RandomZoom": {"height_factor": 0.3},
    "Solarization": {"threshold_factor": (64, 255)},
}
_RANGE = (0, 255)
# What layers raise for arguments that do not suit them, when they are made, traced or run.
_REFUSALS = (AttributeError, LookupError, NotImplementedError, TypeError, ValueError)
_REFUSALS += (tf.errors.InvalidArgumentError,)
_UNIT_RANGE = ("RandomJpegQuality",)  # Takes pixels in [0, 1], whatever the others take.
_SETTLED = {  # arguments that are not the user's to choose
    "seed": "train.seed decides all draws",
    "value_range": "pixels are in [0, 255]",
    "dtype": "layers compute in float32",
    "name": "layers need none",
}
_REFUSED = {
    "CutMix": "use data.cutmix_alpha",
    "MixUp": "use data.mixup_alpha",
    "FourierMix": "it mixes images, but not their labels as data.mixup_alpha does",
    "Mosaic": "it puts four images into one, with the labels of one",
    "JitteredResize": "it changes the image's size",
    "RandomAspectRatio": "it changes the image's size",
    "RandomCrop": "it changes the image's size; data.crop_area_min sets the crop",
    "RandomCropAndResize": "every image is cropped and resized already; see data.crop_area_min",
    "Rescaling": "it changes the range of pixels",
    "Resizing": "it changes the image's size",
    "RandomApply": "it takes a layer, which is no literal",
    "RandomAugmentationPipeline": "it takes layers, which are no literals",
    "RandomChoice": "it takes layers, which are no literals",
    "RepeatedAugmentation": "it takes layers, and changes the size of the batch",
}

LayerCall = tuple[str, dict[str, object]]


def parse_extra_augment(text: str) -> tuple[LayerCall, ...]:
    """Reads "Name(argument=literal, …)+Name+…" as ((name, arguments), …), in order.

    Raises: UserError for anything else, an unknown layer, one that cannot be used here.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise _misspelt(text, "it cannot be read") from error
    calls = []
    while isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        calls.append(_parse_call(text, tree.right))
        tree = tree.left
    return (_parse_call(text, tree), *reversed(calls))


def _parse_call(text: str, tree: ast.expr) -> LayerCall:
    function, keywords = tree, []
    if isinstance(tree, ast.Call):
        function, keywords = tree.func, tree.keywords
        if tree.args or any(keyword.arg is None for keyword in keywords):
            raise _misspelt(text, f"{ast.unparse(tree)} has an argument without a name")
    if not isinstance(function, ast.Name):
        raise _misspelt(text, f"{ast.unparse(tree)!r} is no layer")
    name, arguments = function.id, {}
    if name in _REFUSED:
        raise UserError(f"data.extra_augment: {name} cannot be used: {_REFUSED[name]}")
    if name not in LAYERS:
        raise UserError(f"data.extra_augment: unknown layer {name!r}{nearest(name, LAYERS)}")
    for keyword in keywords:
        if keyword.arg in _SETTLED:
            raise UserError(
                f"data.extra_augment: drop {keyword.arg} of {name}: {_SETTLED[keyword.arg]}"
            )
        try:
            arguments[keyword.arg] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, SyntaxError) as error:
            raise _misspelt(text, f"{ast.unparse(keyword)} is no literal") from error
    return name, arguments


def _misspelt(text: str, reason: str) -> UserError:
    return UserError(
        f"data.extra_augment={text!r}: {reason}; write it as RandomHue(factor=0.3)+GridMask"
    )


def make_extra_augment(text: str) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns the function that applies the layers to a batch: (images, seed) -> images.

    Shapes: uint8 [B, S, S, 3] in [0, 255], int64 [2] -> uint8 [B, S, S, 3].
    The result for image i is a function of its pixels and of seed + (0, i), so that it does not
    depend on how a batch is divided. After each layer pixels are clipped to [0, 255] and rounded.

    Raises: UserError if `text` cannot be read, a layer does not take its arguments, changes the
        image's shape, or draws random numbers that the seed does not decide.
    """
    layers = [_make_layer(name, arguments) for name, arguments in parse_extra_augment(text)]

    # Traced also where it is called eagerly: see KeyedDraws.
    @tf.function(autograph=False)
    def extra_augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        def one(image_and_position):
            image, position = image_and_position
            for index, layer in enumerate(layers):
                place = seed + tf.stack([tf.zeros_like(position), position])
                image = layer(image, tf.random.experimental.stateless_fold_in(place, index))
            return image

        positions = tf.range(tf.shape(images, tf.int64)[0], dtype=tf.int64)
        signature = tf.TensorSpec(images.shape[1:], tf.uint8)
        return tf.map_fn(one, (images, positions), fn_output_signature=signature)

    return extra_augment


def _make_layer(name: str, arguments: dict) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns one layer as a function of (uint8 [S, S, 3], seed int64 [2]), tried out."""
    keras_cv = import_keras_cv()
    layer_class = getattr(keras_cv.layers, name)
    known = inspect.signature(layer_class).parameters
    choice = [key for key in known if key not in _SETTLED and key != "kwargs"]
    for key in arguments:
        if key not in choice:
            raise UserError(f"data.extra_augment: {name} has no {key!r}{nearest(key, choice)}")
    settled = {"value_range": _RANGE} if "value_range" in known else {}
    written = f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
    draws, scale = KeyedDraws(), 1.0 / 255.0 if name in _UNIT_RANGE else 1.0

    @tf.function(autograph=False)
    def apply(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        with draws.seeded(seed):
            result = layer(tf.cast(image, tf.float32) * scale)
        if not result.shape.is_compatible_with(image.shape):
            raise ValueError("it changes the image's shape")
        result = tf.clip_by_value(tf.cast(result, tf.float32) / scale + 0.5, 0.0, 255.0)
        return tf.ensure_shape(tf.cast(result, tf.uint8), image.shape)

    variable_scope = tf.compat.v1.get_variable_scope()
    caching_device = variable_scope.caching_device
    try:
        layer = layer_class(**LAYERS[name] | arguments | settled, dtype="float32")
        draw_from(layer, draws)
        image, seed = tf.zeros([32, 32, 3], tf.uint8), tf.zeros([2], tf.int64)
        traced = apply.get_concrete_function(image, seed)
        traced(image, seed)
    except _REFUSALS as error:
        # A loop of TensorFlow that cannot be traced leaves it set: no strategy would start again.
        variable_scope._caching_device = caching_device
        raise UserError(
            f"data.extra_augment: {written} cannot be used: {_reason(error)}"
        ) from error
    if stateful_draws(traced):
        raise UserError(
            f"data.extra_augment: {written} cannot be used: it draws random numbers that "
            "train.seed does not decide; choose other arguments or another layer"
        )
    return apply


def _reason(error: Exception) -> str:
    """The message without where TensorFlow and Keras say that it comes from."""
    text = re.sub("\x1b\\[[0-9]*m", "", str(error))
    lines = re.split(r"\n\n(?:Call a|A)rguments received", text)[0].splitlines()
    lines = [line for line in lines if line.strip() and "[[{{" not in line]
    if re.match("Exception encountered|in user code|Graph execution error", lines[0]):
        lines = lines[-1:]
    return " ".join(" ".join(lines).partition(" for '{{node")[0].split())
