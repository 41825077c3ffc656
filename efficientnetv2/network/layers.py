"""Layers of a block: convolutions, normalization, activations, squeeze-and-excite, noise.

Tensors are channels-last. By default, dropout and stochastic depth draw from Keras' own generator.
To make noise a function of (seed, step), a trainer runs the forward pass in `noise_from(source)`;
since the source is passed in, the network does not depend on TensorFlow.

`set_padding` and `set_normalization` change a built network to match its weights. Functions traced
before the change keep the previous behavior; those of `predict`, `evaluate` and `fit` are rebuilt.
"""

import contextlib
import math
import threading
from typing import Protocol

import keras

from efficientnetv2.network.compat import ON_TENSORFLOW, UNFUSED_BATCH_NORM

_SILU = keras.activations.get("silu")
_local = threading.local()  # Each replica of a strategy is traced in its own thread.
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # Of pixels in [0, 1], red, green, blue; official constants.
IMAGENET_STD = (0.229, 0.224, 0.225)


@keras.saving.register_keras_serializable("efficientnetv2")
class Activation(keras.layers.Activation):
    """Keras' layer, with the gradient of SiLU compiled by XLA for training on CPUs.

    The results are the same. TensorFlow passes over memory seven times for that gradient, which is
    a sixth of the time of a step. Inference is a plain product, so that exported networks need no
    compiler; TensorFlow's own SiLU would also keep every network ever built in memory, through the
    gradient that it registers.
    """

    def call(self, inputs, training=None):
        if training and ON_TENSORFLOW and self.activation is _SILU:
            from efficientnetv2.network.silu import only_cpus, silu

            if only_cpus():
                return silu(inputs)
        if ON_TENSORFLOW and self.activation is _SILU and not training:
            return inputs * keras.activations.sigmoid(inputs)
        return super().call(inputs)


@keras.saving.register_keras_serializable("efficientnetv2")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer; on Keras 3 with TensorFlow, images are normalized by the fused kernel.

    Shapes: [B, H, W, C] -> same, over B, H and W; other ranks as in Keras.
    Statistics are float32 even in half precision. The moving variance has Bessel's correction
    N / (N - 1) for the N = B * H * W values of a channel, as in Keras 2 and the official code.
    Keras' implementation is used where the kernel does not apply: training with statistics over all
    replicas (`synchronized`), masks, axes other than the last, float64.
    """

    def call(self, inputs, training=None, mask=None):
        if not UNFUSED_BATCH_NORM:
            return super().call(inputs, training=training, mask=mask)
        moves = bool(training and self.trainable)
        if mask is not None or not self._can_fuse(inputs, moves):
            return super().call(inputs, training=moves, mask=mask)
        import tensorflow as tf

        results = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=tf.convert_to_tensor(self.moving_mean),
            variance=tf.convert_to_tensor(self.moving_variance),
            epsilon=self.epsilon,
            exponential_avg_factor=1.0 - self.momentum,
            is_training=moves,
        )
        if moves:
            self.moving_mean.assign(results.batch_mean)
            self.moving_variance.assign(results.batch_variance)
        return results.y

    def _can_fuse(self, inputs, moves: bool) -> bool:
        return (
            len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and self.scale
            and self.center
            and not self.renorm
            and not (moves and self.synchronized)
            and inputs.dtype in ("float32", "bfloat16", "float16")
            and inputs.dtype == self.compute_dtype
        )


class NoiseSource(Protocol):
    """Interface of the noise sources that `noise_from` accepts."""

    def drop(self, x, rate: float, name: str):
        """Zeroes values of `x` with probability `rate` and scales the rest by 1 / (1 - rate).

        Shapes: [B, C]: each value independently; [B, H, W, C]: whole examples.
        """


@contextlib.contextmanager
def noise_from(source: NoiseSource):
    """Makes layers called inside the context draw their noise from `source`."""
    outer = getattr(_local, "source", None)
    _local.source = source
    try:
        yield
    finally:
        _local.source = outer


class _SourcedDropout(keras.layers.Dropout):
    def call(self, inputs, training=None):
        source = getattr(_local, "source", None)
        if source is None or not training or not self.rate:
            return super().call(inputs, training=training)
        return source.drop(inputs, self.rate, self.name)


@keras.saving.register_keras_serializable("efficientnetv2")
class HeadDropout(_SourcedDropout):
    """Dropout of individual values. `rate` is read when a training step is traced.

    Shapes: [B, C] -> same. Source: official head, after global pooling.
    """


@keras.saving.register_keras_serializable("efficientnetv2")
class StochasticDepth(_SourcedDropout):
    """Drops a whole residual branch, per example, and scales the kept ones by 1 / (1 - rate).

    Shapes: [B, H, W, C] -> same. Source: arXiv 1603.09382; official per-example mask.
    """

    def __init__(self, rate: float, **kwargs):
        super().__init__(rate, noise_shape=(None, 1, 1, 1), **kwargs)

    def get_config(self):
        config = super().get_config()
        config.pop("noise_shape", None)
        return config


def scale_and_offset(kind: str, channels: int = 3):
    """Returns the factor and offset that map pixels in [0, 255] to what the weights expect.

    Both are numbers, or lists with one number per channel. If there are not three channels,
    "imagenet" uses the mean over the colors for one channel and otherwise repeats the colors in
    turn, as the stem's weights are repeated.
    """
    if kind == "centered":
        return 1 / 128, -1.0
    if kind == "inception":
        return 1 / 127.5, -1.0
    means = [IMAGENET_MEAN[i % 3] for i in range(channels)]
    stds = [IMAGENET_STD[i % 3] for i in range(channels)]
    if channels == 1:
        means, stds = [sum(IMAGENET_MEAN) / 3], [sum(IMAGENET_STD) / 3]
    scale = [1 / (255 * std) for std in stds]
    return scale, [-mean / std for mean, std in zip(means, stds)]


def normalization(kind: str, channels: int = 3):
    """Returns the layer that maps pixels in [0, 255] to what the weights expect."""
    scale, offset = scale_and_offset(kind, channels)
    return keras.layers.Rescaling(scale, offset=offset, name="normalization")


def conv_initializer(kernel: int, channels: int):
    """Returns a normal initializer with the standard deviation of He's fan-out rule.

    Source: official initializer, not truncated: sqrt(2 / (kernel * kernel * channels)); for a
    depthwise kernel, `channels` is its channel multiplier of 1.
    """
    return keras.initializers.RandomNormal(0.0, math.sqrt(2.0 / (kernel * kernel * channels)))


class _Padded:
    """Mixin of convolutions that pads with zeros as TensorFlow ("same") or PyTorch ("symmetric").

    With a stride above 1, "same" pads an even image with one more row of zeros at the end than at
    the start, while "symmetric" pads kernel // 2 rows at both. The output shape is the same.
    """

    def __init__(self, *args, symmetric: bool = False, **kwargs):
        kwargs["padding"] = "same"
        super().__init__(*args, **kwargs)
        self.zeros = keras.layers.ZeroPadding2D(self.kernel_size[0] // 2, name="zeros")
        self.pad("symmetric" if symmetric else "same")

    def pad(self, padding: str):
        """Switches the padding for functions traced from now on."""
        self.symmetric = padding == "symmetric" and max(self.strides) > 1
        self.padding = "valid" if self.symmetric else "same"

    def padded(self, inputs):
        return self.zeros(inputs) if self.symmetric else inputs

    def compute_output_shape(self, input_shape):
        if self.symmetric:
            input_shape = self.zeros.compute_output_shape(input_shape)
        return super().compute_output_shape(input_shape)

    def get_config(self):
        config = super().get_config()
        del config["padding"]
        return {**config, "symmetric": self.symmetric}


@keras.saving.register_keras_serializable("efficientnetv2")
class Conv2D(_Padded, keras.layers.Conv2D):
    """A convolution with the padding of TensorFlow or PyTorch."""

    def convolution_op(self, inputs, kernel):
        # Not in `call`: there, Keras 2 checks the output's shape against the inputs' shape.
        return super().convolution_op(self.padded(inputs), kernel)


@keras.saving.register_keras_serializable("efficientnetv2")
class DepthwiseConv2D(_Padded, keras.layers.DepthwiseConv2D):
    """A depthwise convolution with the padding of TensorFlow or PyTorch."""

    def call(self, inputs):
        return super().call(self.padded(inputs))


def conv(
    channels: int,
    kernel: int,
    stride: int,
    name: str,
    *,
    padding: str = "same",
    dilation: int = 1,
    use_bias: bool = False,
):
    """Returns a convolution with the official initializer."""
    return Conv2D(
        channels,
        kernel,
        strides=stride,
        dilation_rate=dilation,
        symmetric=padding == "symmetric",
        use_bias=use_bias,
        kernel_initializer=conv_initializer(kernel, channels),
        name=name,
    )


def depthwise_conv(kernel: int, stride: int, name: str, *, padding: str = "same", dilation=1):
    """Returns a depthwise convolution with the official initializer."""
    return DepthwiseConv2D(
        kernel,
        strides=stride,
        dilation_rate=dilation,
        symmetric=padding == "symmetric",
        use_bias=False,
        depthwise_initializer=conv_initializer(kernel, 1),
        name=name,
    )


def norm_layer(settings: dict, name: str):
    """Returns the batch or group normalization layer for a block's settings.

    `bn_momentum` is the fraction of the old statistics that is kept. Source: official `bn_type`.
    """
    if settings["norm"] == "group":
        return keras.layers.GroupNormalization(
            settings["gn_groups"], epsilon=settings["bn_epsilon"], name=name
        )
    return BatchNormalization(
        momentum=settings["bn_momentum"],
        epsilon=settings["bn_epsilon"],
        synchronized=settings["bn_synchronized"],
        name=name,
    )


@keras.saving.register_keras_serializable("efficientnetv2")
class SqueezeExcite(keras.layers.Layer):
    """Scales each channel by a gate computed from the mean of all channels.

    Shapes: [B, H, W, C] -> same; the gate is in (0, 1).
    Source: arXiv 1709.01507; official: both convolutions have biases, the gate is a sigmoid.
    """

    def __init__(self, reduced_channels: int, activation: str = "silu", **kwargs):
        super().__init__(**kwargs)
        self.reduced_channels = reduced_channels
        self.activation = activation

    def build(self, input_shape):
        channels = int(input_shape[-1])
        self.pool = keras.layers.GlobalAveragePooling2D(keepdims=True, name="pool")
        self.reduce_conv = conv(self.reduced_channels, 1, 1, "reduce_conv", use_bias=True)
        self.reduce_act = Activation(self.activation, name="reduce_act")
        self.expand_conv = conv(channels, 1, 1, "expand_conv", use_bias=True)
        self.gate_act = keras.layers.Activation("sigmoid", name="gate_act")
        self.scale = keras.layers.Multiply(name="scale")
        super().build(input_shape)

    def call(self, inputs):
        gate = self.pool(inputs)  # [B, 1, 1, C]
        gate = self.reduce_act(self.reduce_conv(gate))  # [B, 1, 1, reduced]
        gate = self.gate_act(self.expand_conv(gate))  # [B, 1, 1, C]
        return self.scale([inputs, gate])

    def get_config(self):
        return {
            **super().get_config(),
            "reduced_channels": self.reduced_channels,
            "activation": self.activation,
        }


def set_padding(model: keras.Model, padding: str) -> None:
    """Sets the padding of the strided convolutions to "same" or "symmetric", see `ModelSpec`."""
    for layer in model.layers:
        if hasattr(layer, "pad"):
            layer.pad(padding)
    _forget_traces(model)


def padding_of(model: keras.Model) -> str | None:
    """Returns the padding of this module's strided convolutions; None if there are none."""
    kinds = {"symmetric" if layer.symmetric else "same" for layer in _strided_convolutions(model)}
    return kinds.pop() if len(kinds) == 1 else None


def set_normalization(model: keras.Model, kind: str) -> bool:
    """Sets the normalization of pixels, see `ModelSpec`; returns whether that changed anything.

    A network without a normalization layer, built with `include_preprocessing=False`, is unchanged.
    """
    layers = [layer for layer in model.layers if layer.name == "normalization"]
    if not layers:
        return False
    wanted = scale_and_offset(kind, model.input_shape[-1])
    had = (layers[0].scale, layers[0].offset)
    if [_numbers(value) for value in had] == [_numbers(value) for value in wanted]:
        return False
    layers[0].scale, layers[0].offset = wanted
    _forget_traces(model)
    return True


def _strided_convolutions(model: keras.Model):
    for layer in model.layers:
        for part in (layer, *getattr(layer, "steps", ())):
            if hasattr(part, "symmetric") and max(part.strides) > 1:
                yield part


def _numbers(value) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _forget_traces(model: keras.Model) -> None:
    model.predict_function = model.test_function = model.train_function = None
