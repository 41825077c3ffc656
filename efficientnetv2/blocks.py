"""The blocks of EfficientNetV2 as Keras layers made of built-in layers.

Channels are last. All convolutions have SAME padding; none has a bias except those of SE.
"""

import math

import keras

from efficientnetv2.noise import StochasticDepth


def conv_initializer(kernel: int, channels: int):
    """Normal with the standard deviation of He's fan-out rule.

    Source: official initialiser, not truncated: sqrt(2 / (kernel * kernel * channels)); a depthwise
    kernel counts its channel multiplier of 1.
    """
    return keras.initializers.RandomNormal(0.0, math.sqrt(2.0 / (kernel * kernel * channels)))


def conv(channels: int, kernel: int, stride: int, name: str, use_bias: bool = False):
    """A convolution with SAME padding and the official initialiser."""
    return keras.layers.Conv2D(
        channels,
        kernel,
        strides=stride,
        padding="same",
        use_bias=use_bias,
        kernel_initializer=conv_initializer(kernel, channels),
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
        self.reduce_act = keras.layers.Activation(self.activation, name="reduce_act")
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


class _Block(keras.layers.Layer):
    """What both blocks share: settings, normalisation, squeeze-and-excite and the residual."""

    def __init__(
        self,
        channels: int,
        kernel: int = 3,
        stride: int = 1,
        expand: int = 1,
        se_ratio: float = 0.0,
        drop_rate: float = 0.0,
        activation: str = "silu",
        bn_momentum: float = 0.9,
        bn_epsilon: float = 1e-3,
        bn_synchronized: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 0 <= drop_rate < 1:
            raise ValueError(f"drop_rate must be in [0, 1), got {drop_rate}")
        self.settings = {
            "channels": channels,
            "kernel": kernel,
            "stride": stride,
            "expand": expand,
            "se_ratio": se_ratio,
            "drop_rate": drop_rate,
            "activation": activation,
            "bn_momentum": bn_momentum,
            "bn_epsilon": bn_epsilon,
            "bn_synchronized": bn_synchronized,
        }
        self.channels, self.kernel, self.stride, self.expand = channels, kernel, stride, expand
        self.se_ratio, self.drop_rate = se_ratio, drop_rate
        self.steps = []  # What `call` runs in turn, before the residual.

    def get_config(self):
        return {**super().get_config(), **self.settings}

    def _conv_bn_act(self, step: str, convolution, activate: bool = True):
        """Appends a convolution, its normalisation and activation to the steps."""
        values = self.settings
        norm = batch_norm(
            values["bn_momentum"], values["bn_epsilon"], values["bn_synchronized"], f"{step}_bn"
        )
        self._add_step(f"{step}_conv", convolution)
        self._add_step(f"{step}_bn", norm)
        if activate:
            act = keras.layers.Activation(values["activation"], name=f"{step}_act")
            self._add_step(f"{step}_act", act)

    def _add_step(self, name: str, layer):
        setattr(self, name, layer)
        self.steps.append(layer)

    def _squeeze_excite(self, channels_in: int):
        if self.se_ratio:
            reduced = max(1, int(channels_in * self.se_ratio))  # Of the block's input: official.
            self._add_step("se", SqueezeExcite(reduced, self.settings["activation"], name="se"))

    def _residual(self, channels_in: int):
        self.has_residual = self.stride == 1 and channels_in == self.channels
        if self.has_residual:
            # The noise of a layer follows from its name, so each block's must differ.
            self.drop_path = StochasticDepth(self.drop_rate, name=f"{self.name}_drop_path")
            self.add = keras.layers.Add(name="add")

    def call(self, inputs, training=None):
        x = inputs  # [B, H, W, C]
        for layer in self.steps:
            if isinstance(layer, keras.layers.BatchNormalization):
                x = layer(x, training=training)
            else:
                x = layer(x)
        if self.has_residual:
            x = self.add([inputs, self.drop_path(x, training=training)])
        return x  # [B, ceil(H / stride), ceil(W / stride), channels]


def batch_norm(momentum: float, epsilon: float, synchronized: bool, name: str):
    """Batch normalisation; `momentum` is the share of the old statistics that is kept."""
    return keras.layers.BatchNormalization(
        momentum=momentum, epsilon=epsilon, synchronized=synchronized, name=name
    )


@keras.saving.register_keras_serializable("efficientnetv2")
class MBConv(_Block):
    """Inverted bottleneck: expand 1x1, depthwise, squeeze-and-excite, project 1x1.

    Shapes: [B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), channels].
    Raises: ValueError if `drop_rate` is not in [0, 1).
    Source: arXiv 1801.04381; paper Figure 2; official: no activation after the projection.
    """

    def build(self, input_shape):
        channels_in = int(input_shape[-1])
        if self.expand != 1:
            self._conv_bn_act("expand", conv(channels_in * self.expand, 1, 1, "expand_conv"))
        depthwise = keras.layers.DepthwiseConv2D(
            self.kernel,
            strides=self.stride,
            padding="same",
            use_bias=False,
            depthwise_initializer=conv_initializer(self.kernel, 1),
            name="depthwise_conv",
        )
        self._conv_bn_act("depthwise", depthwise)
        self._squeeze_excite(channels_in)
        self._conv_bn_act("project", conv(self.channels, 1, 1, "project_conv"), activate=False)
        self._residual(channels_in)
        super().build(input_shape)


@keras.saving.register_keras_serializable("efficientnetv2")
class FusedMBConv(_Block):
    """Inverted bottleneck whose expansion and depthwise convolution are one full convolution.

    Shapes: [B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), channels].
    Raises: ValueError if `drop_rate` is not in [0, 1).
    Source: paper Figure 2; official: without expansion it is one convolution, followed by an
    activation; with expansion there is none after the projection.
    """

    def build(self, input_shape):
        channels_in = int(input_shape[-1])
        if self.expand != 1:
            wide = channels_in * self.expand
            self._conv_bn_act("expand", conv(wide, self.kernel, self.stride, "expand_conv"))
            self._squeeze_excite(channels_in)
            project = conv(self.channels, 1, 1, "project_conv")
            self._conv_bn_act("project", project, activate=False)
        else:
            self._squeeze_excite(channels_in)
            project = conv(self.channels, self.kernel, self.stride, "project_conv")
            self._conv_bn_act("project", project)
        self._residual(channels_in)
        super().build(input_shape)
