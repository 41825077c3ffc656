"""The parts of a block: convolutions, normalisation, squeeze-and-excite. Channels are last."""

import math

import keras

from efficientnetv2.activation import Activation
from efficientnetv2.fused_batch_norm import BatchNormalization


def conv_initializer(kernel: int, channels: int):
    """Normal with the standard deviation of He's fan-out rule.

    Source: official initialiser, not truncated: sqrt(2 / (kernel * kernel * channels)); a depthwise
    kernel counts its channel multiplier of 1.
    """
    return keras.initializers.RandomNormal(0.0, math.sqrt(2.0 / (kernel * kernel * channels)))


class _Padded:
    """Mixed into a convolution: pads with zeros as TensorFlow does, or as PyTorch does.

    With a stride above 1, "same" gives an even image a zero row more at the end than at the start,
    where "symmetric" gives kernel // 2 rows at both. The output has the same shape.
    """

    def __init__(self, *args, symmetric: bool = False, **kwargs):
        kwargs["padding"] = "same"
        super().__init__(*args, **kwargs)
        self.zeros = keras.layers.ZeroPadding2D(self.kernel_size[0] // 2, name="zeros")
        self.pad("symmetric" if symmetric else "same")

    def pad(self, padding: str):
        """Switches the padding, for what is traced from now on."""
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
    """A convolution whose padding can be PyTorch's."""

    def convolution_op(self, inputs, kernel):
        # Not in `call`: Keras 2 checks there what comes out against the inputs' shape.
        return super().convolution_op(self.padded(inputs), kernel)


@keras.saving.register_keras_serializable("efficientnetv2")
class DepthwiseConv2D(_Padded, keras.layers.DepthwiseConv2D):
    """A depthwise convolution whose padding can be PyTorch's."""

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
    """A convolution with the official initialiser."""
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
    """A depthwise convolution with the official initialiser."""
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
    """Batch or group normalisation, by the settings of a block.

    `bn_momentum` is the share of the old statistics that is kept. Source: official `bn_type`.
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
