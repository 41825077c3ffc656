"""Augmentation with keras-cv layers: `data.extra_augment=RandomHue(factor=0.3)+GridMask`.

Layers are written with literal keyword arguments and joined by "+"; they are applied in that order,
after RandAugment and before Mixup. The result is a function of the pixels and a seed.

keras-cv draws random numbers in three ways: from a layer's `tf.random.Generator`, in the samplers
of its factors, and from `tf.random` directly. `draw_from` replaces the first two with a
`KeyedDraws`, and the third in AugMix, the only layer that also draws inside loops. Other draws of a
layer are not replaced; `stateful_draws` finds them in a traced function.
"""

import ast
import contextlib
import inspect
import io
import re
from collections.abc import Callable

import keras
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams import nearest

_STATEFUL = re.compile("Random|Multinomial|TruncatedNormal|Parameterized|Stateful(?!Partitioned)")
_RANGE = (0, 255)
# Exceptions that layers raise for unsuitable arguments when they are created, traced or run.
_REFUSALS = (AttributeError, LookupError, NotImplementedError, TypeError, ValueError)
_UNIT_RANGE = ("RandomJpegQuality",)  # Takes pixels in [0, 1], unlike the other layers.
_SETTLED = {  # arguments that users cannot set
    "seed": "train.seed decides all draws",
    "value_range": "pixels are in [0, 255]",
    "dtype": "layers compute in float32",
    "name": "layers need none",
}
LayerCall = tuple[str, dict[str, object]]


def import_keras_cv():
    """Imports keras-cv, which takes seconds, and hides the line that it prints on Keras 2."""
    with contextlib.redirect_stdout(io.StringIO()):
        import keras_cv
    return keras_cv


class KeyedDraws:
    """Random numbers that are a function of a seed and of a draw's index in a traced function.

    For use while a function is traced: `tf.cond` traces both branches and a loop traces its body
    once, so a draw has the same index in every call. In eager mode it would not.
    """

    def __init__(self):
        self._seed, self._count, self._loops = None, 0, ()

    @contextlib.contextmanager
    def seeded(self, seed: tf.Tensor):
        """Makes the draws inside this context functions of `seed`, int64 [2]."""
        self._seed, self._count = seed, 0
        try:
            yield
        finally:
            self._seed = None

    def in_loop(self, body, position: int):
        """Wraps a loop body so that its draws also depend on its argument at `position`."""

        def counted(*state):
            outer = self._loops
            self._loops = (*outer, tf.reshape(state[position], []))
            try:
                return body(*state)
            finally:
                self._loops = outer

        return counted

    def _next_seed(self) -> tf.Tensor:
        self._count += 1
        seed = self._seed
        for number in (self._count, *self._loops):
            seed = tf.random.experimental.stateless_fold_in(seed, number)
        return seed

    def uniform(self, shape, minval=0, maxval=None, dtype=tf.float32):
        """Draws as `tf.random.Generator.uniform` does."""
        return tf.random.stateless_uniform(shape, self._next_seed(), minval, maxval, dtype)

    def normal(self, shape, mean=0.0, stddev=1.0, dtype=tf.float32):
        """Draws as `tf.random.Generator.normal` does."""
        return tf.random.stateless_normal(shape, self._next_seed(), mean, stddev, dtype)

    random_normal = normal  # GridMask calls it by a name that generators do not have.

    def gamma(self, alpha):
        """Draws from gamma distributions. Shapes: alpha float [...] -> the same."""
        return tf.random.stateless_gamma(tf.shape(alpha), self._next_seed(), alpha)

    def sampler(self, sampler):
        """Returns a callable that draws as the given `keras_cv.core.FactorSampler` does."""
        keras_cv = import_keras_cv()
        if isinstance(sampler, keras_cv.core.UniformFactorSampler):
            low, high = sampler.lower, sampler.upper
            return lambda shape=(), dtype="float32": self.uniform(shape, low, high, dtype)
        if isinstance(sampler, keras_cv.core.NormalFactorSampler):
            low, high = sampler.min_value, sampler.max_value
            moments = (sampler.mean, sampler.stddev)
            return lambda shape=(), dtype="float32": tf.clip_by_value(
                self.normal(shape, *moments, dtype), low, high
            )
        return sampler


def draw_from(layer: keras.layers.Layer, draws: KeyedDraws) -> None:
    """Makes a keras-cv layer, and the layers inside it, draw from `draws`."""
    keras_cv = import_keras_cv()
    for name, value in list(vars(layer).items()):
        if isinstance(value, keras_cv.core.FactorSampler):
            setattr(layer, name, draws.sampler(value))
        for inner in value if isinstance(value, list | tuple) else [value]:
            if isinstance(inner, keras.layers.Layer):
                draw_from(inner, draws)
    layer._random_generator = draws
    if isinstance(layer, keras_cv.layers.Equalization):  # Has an `if` on a tensor.
        layer.equalize_channel = tf.function(layer.equalize_channel)
    if isinstance(layer, keras_cv.layers.AugMix):
        _draw_aug_mix_from(layer, draws)


def _draw_aug_mix_from(layer, draws: KeyedDraws) -> None:
    def dirichlet(alpha):
        gamma = draws.gamma(tf.cast(alpha, tf.float32))
        return gamma / tf.reduce_sum(gamma)

    layer._sample_from_dirichlet = dirichlet
    layer._sample_from_beta = lambda *alphas: dirichlet(alphas)[0]
    layer._loop_on_depth = draws.in_loop(layer._loop_on_depth, position=0)
    layer._loop_on_width = draws.in_loop(layer._loop_on_width, position=2)


def stateful_draws(function) -> list[str]:
    """Returns the random operations in a concrete function that our seeds do not control."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for one in graph.library.function for node in one.node_def)]
    return sorted({node.op for node in nodes if _STATEFUL.match(node.op)})


# Layers that keep the size of an image and need no label, with our defaults for their arguments;
# the other arguments have keras-cv's defaults.
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
_REFUSALS += (tf.errors.InvalidArgumentError,)
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


def parse_extra_augment(text: str) -> tuple[LayerCall, ...]:
    """Parses "Name(argument=literal, …)+Name+…" into ((name, arguments), …), in order.

    Raises: UserError for anything else, an unknown layer, or one that cannot be used here.
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

    Raises: UserError if `text` cannot be parsed, or if a layer does not accept its arguments,
        changes the image's shape, or draws random numbers that the seed does not control.
    """
    layers = [_make_layer(name, arguments) for name, arguments in parse_extra_augment(text)]

    # Traced even when it is called eagerly: see KeyedDraws.
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
    """Returns one layer as a function of (uint8 [S, S, 3], seed int64 [2]), after a test run."""
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
        # A TensorFlow loop that fails to trace leaves it set, and no strategy could start again.
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
    """Returns the message without the locations that TensorFlow and Keras add."""
    text = re.sub("\x1b\\[[0-9]*m", "", str(error))
    lines = re.split(r"\n\n(?:Call a|A)rguments received", text)[0].splitlines()
    lines = [line for line in lines if line.strip() and "[[{{" not in line]
    if re.match("Exception encountered|in user code|Graph execution error", lines[0]):
        lines = lines[-1:]
    return " ".join(" ".join(lines).partition(" for '{{node")[0].split())
