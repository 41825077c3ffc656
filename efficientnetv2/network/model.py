"""Networks built from a specification or a run's config, and their feature pyramid levels."""

import keras

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams import Config, ModelConfig, make_stages
from efficientnetv2.hparams.models import given_settings, spec_from_config
from efficientnetv2.hparams.spec import ModelSpec
from efficientnetv2.network.blocks import FusedMBConv, MBConv
from efficientnetv2.network.keras_models import PREFIX, build_keras_model, smallest_image
from efficientnetv2.network.layers import Activation, HeadDropout, conv, norm_layer, normalization

_BLOCKS = {"fused": FusedMBConv, "mbconv": MBConv}


def build_network(
    spec: ModelSpec,
    num_classes: int | None = 1000,
    *,
    include_preprocessing: bool = True,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    bn_synchronized: bool = False,
) -> keras.Model:
    """Returns the functional model of a specification, with random weights.

    See `efficientnetv2.build_model`, which also takes names and weights. `num_classes=None` builds
    it without a classifier.
    """
    shared = {
        "padding": spec.padding,
        "activation": spec.activation,
        "norm": spec.norm,
        "gn_groups": spec.gn_groups,
        "bn_momentum": spec.bn_momentum,
        "bn_epsilon": spec.bn_epsilon,
        "bn_synchronized": bn_synchronized,
    }
    blocks = spec.scaled_blocks()
    inputs = keras.Input(input_shape, name="image")
    x = inputs
    if include_preprocessing:
        x = normalization(spec.normalization, input_shape[-1])(x)
    x = _conv_norm_act(x, blocks[0].channels_in, 3, spec.stem_stride, "stem", shared)
    for index, (block, (stride, dilation)) in enumerate(zip(blocks, spec.strides())):
        x = _BLOCKS[block.kind](
            channels=block.channels,
            kernel=block.kernel,
            stride=stride,
            dilation=dilation,
            expand=block.expand,
            se_ratio=block.se_ratio,
            drop_rate=spec.drop_path_rate * index / len(blocks),
            name=f"blocks_{index}",
            **shared,
        )(x)
    x = _conv_norm_act(x, spec.scaled_channels(spec.head_channels), 1, 1, "head", shared)
    x = keras.layers.GlobalAveragePooling2D(name="head_pool")(x)  # [B, head channels]
    x = HeadDropout(spec.dropout_rate, name="head_dropout")(x)
    if num_classes is not None:
        x = classifier(num_classes)(x)
    return keras.Model(inputs, x, name=spec.name)


def reduction_levels(spec: ModelSpec) -> dict[int, int]:
    """Returns {level: index of the last block of the level}.

    Source: official endpoints: a block ends a level if it is the last one, or the next is strided.
    """
    blocks = spec.scaled_blocks()
    strided = [i for i, block in enumerate(blocks) if block.stride > 1]
    ends = [i - 1 for i in strided if i > 0] + [len(blocks) - 1]
    first = 1 if not strided or strided[0] > 0 else 2
    return dict(enumerate(ends, start=first))


def classifier(num_classes: int):
    """Returns the last layer, whose logits are float32 under any precision policy."""
    bound = num_classes**-0.5
    return keras.layers.Dense(
        num_classes,
        kernel_initializer=keras.initializers.RandomUniform(-bound, bound),
        dtype="float32",
        name="classifier",
    )


def _conv_norm_act(x, channels, kernel, stride, step, shared):
    x = conv(channels, kernel, stride, f"{step}_conv", padding=shared["padding"])(x)
    x = norm_layer(shared, f"{step}_bn")(x)
    return Activation(shared["activation"], name=f"{step}_act")(x)


def build_from_config(config: Config, bn_synchronized: bool = False) -> keras.Model:
    """Builds the network of a config whose `data.num_classes` is known.

    Raises: UserError as `build_model` does, and for settings or image sizes that a Keras
    architecture does not support.
    """
    name = config.model.model_name
    shared = {"num_classes": config.data.num_classes, "bn_synchronized": bn_synchronized}
    if not name.startswith(PREFIX):
        return build_network(spec_from_config(config.model), **shared)
    given = [f"model.{key}" for key in given_settings(config.model)]
    if given:
        raise UserError(f"{name} has no {', '.join(given)}; leave them out")
    least = smallest_image(name)
    for key, size in _image_sizes(config).items():
        if size < least:
            raise UserError(f"{name} takes images of at least {least} pixels, got {key}={size}")
    dropout_rate = config.model.dropout_rate
    return build_keras_model(name, num_classes=config.data.num_classes, dropout_rate=dropout_rate)


def normalization_of(model_config: ModelConfig) -> str:
    """Returns the normalization of pixels, see `ModelSpec`; "of NAME" for a Keras architecture."""
    if model_config.model_name.startswith(PREFIX):
        return f"of {model_config.model_name}"
    return spec_from_config(model_config).normalization


def _image_sizes(config: Config) -> dict[str, int]:
    """Returns the image sizes of evaluation and, if stages can be planned, of the first stage."""
    sizes = {"eval.isize": config.eval.isize}
    if config.data.splits.train.num_images is not None:
        sizes["the first stage's size"] = make_stages(config)[0].image_size
    return sizes
