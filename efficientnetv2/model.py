"""Builds a network from a specification."""

import dataclasses

import keras

from efficientnetv2.architectures import ModelSpec, get_spec
from efficientnetv2.blocks import FusedMBConv, MBConv, batch_norm, conv
from efficientnetv2.noise import HeadDropout

_BLOCKS = {"fused": FusedMBConv, "mbconv": MBConv}
_IMAGENET_MEAN = (0.485, 0.456, 0.406)  # Of pixels in [0, 1]; official constants.
_IMAGENET_STD = (0.229, 0.224, 0.225)


def build_model(
    name_or_spec: str | ModelSpec,
    *,
    num_classes: int = 1000,
    include_top: bool = True,
    include_preprocessing: bool = True,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    dropout_rate: float | None = None,
    drop_path_rate: float | None = None,
    bn_synchronized: bool = False,
    weights: str | None = None,
) -> keras.Model:
    """Returns the network as a functional Keras model.

    Shapes: [B, H, W, 3], pixels in [0, 255] (uint8 or float), or, with
    `include_preprocessing=False`, float as the weights expect it -> [B, num_classes] float32
    logits, or, with `include_top=False`, [B, head channels] pooled features.
    Args:
      dropout_rate: probability of dropping a pooled feature; None: the specification's.
      drop_path_rate: of stochastic depth, which rises linearly from 0 over the blocks; None: the
        specification's.
      bn_synchronized: normalise over the batches of all replicas of a `tf.distribute` strategy.
      weights: path of a checkpoint for `load_weights`; None: random.
    Raises: UserError for an unknown name, or weights that do not fit.
    Source: paper Table 4 and official code: rate i / N of `drop_path_rate` for block i of N;
    classifier kernel uniform in +-1 / sqrt(num_classes).
    """
    spec = get_spec(name_or_spec) if isinstance(name_or_spec, str) else name_or_spec
    if dropout_rate is None:
        dropout_rate = spec.dropout_rate
    if drop_path_rate is None:
        drop_path_rate = spec.drop_path_rate
    bn = {"bn_momentum": spec.bn_momentum, "bn_epsilon": spec.bn_epsilon}
    bn["bn_synchronized"] = bn_synchronized
    blocks = spec.scaled_blocks()

    inputs = keras.Input(input_shape, name="image")
    x = normalization(spec.normalization)(inputs) if include_preprocessing else inputs
    x = _conv_bn_act(x, blocks[0].channels_in, 3, spec.stem_stride, "stem", spec.activation, bn)
    for index, block in enumerate(blocks):
        x = _BLOCKS[block.kind](
            channels=block.channels,
            kernel=block.kernel,
            stride=block.stride,
            expand=block.expand,
            se_ratio=block.se_ratio,
            drop_rate=drop_path_rate * index / len(blocks),
            activation=spec.activation,
            name=f"blocks_{index}",
            **bn,
        )(x)
    head_channels = spec.scaled_channels(spec.head_channels)
    x = _conv_bn_act(x, head_channels, 1, 1, "head", spec.activation, bn)
    x = keras.layers.GlobalAveragePooling2D(name="head_pool")(x)  # [B, head channels]
    x = HeadDropout(dropout_rate, name="head_dropout")(x)
    if include_top:
        x = keras.layers.Dense(
            num_classes,
            kernel_initializer=keras.initializers.RandomUniform(
                -(num_classes**-0.5), num_classes**-0.5
            ),
            dtype="float32",
            name="classifier",
        )(x)
    model = keras.Model(inputs, x, name=spec.name)
    if weights is not None:
        from efficientnetv2.weights import load_weights  # Only TensorFlow reads checkpoints.

        load_weights(model, weights)
    return model


def normalization(kind: str):
    """Returns the layer that turns pixels in [0, 255] into what the weights expect."""
    if kind == "centered":
        return keras.layers.Rescaling(1 / 128, offset=-1.0, name="normalization")
    return keras.layers.Rescaling(
        [1 / (255 * std) for std in _IMAGENET_STD],
        offset=[-mean / std for mean, std in zip(_IMAGENET_MEAN, _IMAGENET_STD)],
        name="normalization",
    )


def _conv_bn_act(x, channels, kernel, stride, step, activation, bn):
    x = conv(channels, kernel, stride, name=f"{step}_conv")(x)
    x = batch_norm(bn["bn_momentum"], bn["bn_epsilon"], bn["bn_synchronized"], f"{step}_bn")(x)
    return keras.layers.Activation(activation, name=f"{step}_act")(x)


def spec_from_config(model_config) -> ModelSpec:
    """Returns the specification of `hparams.ModelConfig`: the named one with its overrides."""
    spec = get_spec(model_config.model_name)
    return dataclasses.replace(
        spec,
        width_coefficient=model_config.width_coefficient or spec.width_coefficient,
        depth_coefficient=model_config.depth_coefficient or spec.depth_coefficient,
        stem_stride=model_config.stem_stride,
        activation=model_config.act_fn,
        bn_momentum=model_config.bn_momentum,
        bn_epsilon=model_config.bn_epsilon,
        dropout_rate=model_config.dropout_rate,
        drop_path_rate=1 - model_config.survival_prob,
    )
