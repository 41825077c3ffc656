"""EfficientNetV2 blocks as Keras layers composed of built-in layers.

Tensors are channels-last. No convolution has a bias except those of squeeze-and-excite.
"""

import keras

from efficientnetv2.network.layers import (
    Activation,
    SqueezeExcite,
    StochasticDepth,
    conv,
    depthwise_conv,
    norm_layer,
)


class _Block(keras.layers.Layer):
    """Base of both blocks: settings, normalization, squeeze-and-excite and the residual."""

    def __init__(
        self,
        channels: int,
        kernel: int = 3,
        stride: int = 1,
        expand: int = 1,
        se_ratio: float = 0.0,
        drop_rate: float = 0.0,
        dilation: int = 1,
        padding: str = "same",
        activation: str = "silu",
        norm: str = "batch",
        gn_groups: int = 8,
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
            "dilation": dilation,
            "padding": padding,
            "activation": activation,
            "norm": norm,
            "gn_groups": gn_groups,
            "bn_momentum": bn_momentum,
            "bn_epsilon": bn_epsilon,
            "bn_synchronized": bn_synchronized,
        }
        self.channels, self.kernel, self.stride, self.expand = channels, kernel, stride, expand
        self.se_ratio, self.drop_rate = se_ratio, drop_rate
        self.steps = []  # Layers that `call` runs in order, before the residual.

    def get_config(self):
        return {**super().get_config(), **self.settings}

    def _spatial(self) -> dict:
        """Returns the padding and dilation of the convolution over neighboring pixels."""
        return {"padding": self.settings["padding"], "dilation": self.settings["dilation"]}

    def pad(self, padding: str):
        """Switches the padding of the convolutions for functions traced from now on."""
        self.settings["padding"] = padding
        for layer in self.steps:
            if hasattr(layer, "pad"):
                layer.pad(padding)

    def _conv_norm_act(self, step: str, convolution, activate: bool = True):
        """Appends a convolution, its normalization and activation to the steps."""
        self._add_step(f"{step}_conv", convolution)
        self._add_step(f"{step}_bn", norm_layer(self.settings, f"{step}_bn"))
        if activate:
            act = Activation(self.settings["activation"], name=f"{step}_act")
            self._add_step(f"{step}_act", act)

    def _add_step(self, name: str, layer):
        setattr(self, name, layer)
        self.steps.append(layer)

    def _squeeze_excite(self, channels_in: int):
        if self.se_ratio:
            reduced = max(1, int(channels_in * self.se_ratio))  # Of the block's input, as official.
            self._add_step("se", SqueezeExcite(reduced, self.settings["activation"], name="se"))

    def _residual(self, channels_in: int):
        self.has_residual = self.stride == 1 and channels_in == self.channels
        if self.has_residual:
            # The noise of a layer is derived from its name, so names must differ between blocks.
            self.drop_path = StochasticDepth(self.drop_rate, name=f"{self.name}_drop_path")
            self.add = keras.layers.Add(name="add")

    def call(self, inputs, training=None):
        x = inputs  # [B, H, W, C]
        for layer in self.steps:
            if isinstance(layer, (keras.layers.BatchNormalization, Activation)):
                x = layer(x, training=training)
            else:
                x = layer(x)
        if self.has_residual:
            x = self.add([inputs, self.drop_path(x, training=training)])
        return x  # [B, ceil(H / stride), ceil(W / stride), channels]


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
            self._conv_norm_act("expand", conv(channels_in * self.expand, 1, 1, "expand_conv"))
        depthwise = depthwise_conv(self.kernel, self.stride, "depthwise_conv", **self._spatial())
        self._conv_norm_act("depthwise", depthwise)
        self._squeeze_excite(channels_in)
        self._conv_norm_act("project", conv(self.channels, 1, 1, "project_conv"), activate=False)
        self._residual(channels_in)
        super().build(input_shape)


@keras.saving.register_keras_serializable("efficientnetv2")
class FusedMBConv(_Block):
    """Inverted bottleneck whose expansion and depthwise convolution are one full convolution.

    Shapes: [B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), channels].
    Raises: ValueError if `drop_rate` is not in [0, 1).
    Source: paper Figure 2; official: without expansion it is one convolution, followed by an
    activation; with expansion there is no activation after the projection.
    """

    def build(self, input_shape):
        channels_in = int(input_shape[-1])
        full = self._spatial()
        if self.expand != 1:
            wide = channels_in * self.expand
            expand = conv(wide, self.kernel, self.stride, "expand_conv", **full)
            self._conv_norm_act("expand", expand)
            self._squeeze_excite(channels_in)
            project = conv(self.channels, 1, 1, "project_conv")
            self._conv_norm_act("project", project, activate=False)
        else:
            self._squeeze_excite(channels_in)
            project = conv(self.channels, self.kernel, self.stride, "project_conv", **full)
            self._conv_norm_act("project", project)
        self._residual(channels_in)
        super().build(input_shape)
