"""What each layer of a network costs, from its shapes alone: nothing is run.

Counted are the multiply-adds (MACs, what papers of this field call FLOPs) of convolutions and dense
layers, and their activations: the numbers they put out per image. Adding a bias, normalisation,
activation functions, pooling and the scaling of squeeze-and-excite cost none of either.
Source: the count of arXiv 1905.11946; activations as in arXiv 2003.13678 and timm's tables.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator

import keras

from efficientnetv2.blocks import FusedMBConv, MBConv
from efficientnetv2.compat import functional_calls
from efficientnetv2.layers import SqueezeExcite
from hparams import UserError
from hparams.architectures import ModelSpec

_SCALES = (  # Have weights, and a fixed number of operations per value that nobody counts.
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.Normalization,
    keras.layers.PReLU,
)
_SCALE_NAMES = ("LayerScale",)  # Of ConvNeXt in keras.applications, which does not export it.
_COUNTED = (
    keras.layers.Conv2D,
    keras.layers.Conv2DTranspose,
    keras.layers.Dense,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
)


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """A layer that has weights. `macs` and `activations` are per image, summed over its calls."""

    name: str  # As in "blocks_3/expand_conv".
    part: str  # Of the network: "stem", "stage 1", …, "head", "classifier"; or a resolution.
    params: int  # With those that are not trained, such as BatchNorm's moving averages.
    macs: int
    activations: int


@dataclasses.dataclass(frozen=True)
class _Call:
    name: str
    layer: keras.layers.Layer
    macs: int
    activations: int
    output_shape: tuple


def layer_costs(model: keras.Model, spec: ModelSpec | None = None) -> list[LayerCost]:
    """Returns what each layer of a functional or sequential model of a fixed input size costs.

    With the specification that `build_model` built it from, a part is the stem, a row of blocks
    ("stage 1" is the first), the head or the classifier. Without, it is the resolution that layers
    put out ("56x56"; squeeze-and-excite counts to that around it), and "classifier" where there is
    none left: dense layers on pooled features.

    Raises: UserError if the input size is not fixed, if a layer has weights and is of a kind that
    is not known, or if `spec` has another number of blocks.
    """
    calls = list(_calls_of_model(model, ""))
    parts = _resolutions(calls) if spec is None else _stages(calls, spec)
    costs: dict[int, LayerCost] = {}
    for call, part in zip(calls, parts):
        fresh = LayerCost(call.name, part, call.layer.count_params(), 0, 0)
        so_far = costs.get(id(call.layer), fresh)  # A second call brings no new weights.
        costs[id(call.layer)] = dataclasses.replace(
            so_far, macs=so_far.macs + call.macs, activations=so_far.activations + call.activations
        )
    return list(costs.values())


def _calls_of_model(model: keras.Model, path: str) -> Iterator[_Call]:
    if isinstance(model, keras.Sequential):
        yield from _chain(model.layers, model.input_shape, path)
    elif hasattr(model, "_nodes_by_depth"):
        for layer, input_shape in functional_calls(model):
            yield from _calls(layer, input_shape, path)
    else:
        raise UserError(f"{path}{model.name} is no functional model: its layers cannot be listed")


def _chain(layers, shape: tuple, path: str) -> Iterator[_Call]:
    for layer in layers:
        yield from _calls(layer, shape, path)
        if not isinstance(layer, SqueezeExcite):  # Keeps the shape, and tells Keras only if run.
            shape = tuple(layer.compute_output_shape(shape))


def _calls(layer, shape: tuple, path: str) -> Iterator[_Call]:
    """What happens inside one call of `layer` on an input of `shape`."""
    if not layer.weights:
        return
    name = f"{path}{layer.name}"
    if isinstance(layer, keras.Model):
        yield from _calls_of_model(layer, f"{name}/")
    elif isinstance(layer, (MBConv, FusedMBConv)):
        yield from _chain(layer.steps, shape, f"{name}/")
    elif isinstance(layer, SqueezeExcite):
        pooled = (shape[0], 1, 1, shape[-1])
        yield from _chain((layer.reduce_conv, layer.expand_conv), pooled, f"{name}/")
    elif isinstance(layer, _SCALES) or type(layer).__name__ in _SCALE_NAMES:
        yield _Call(name, layer, 0, 0, shape)
    elif isinstance(layer, _COUNTED):
        yield _counted(layer, shape, name)
    else:
        raise UserError(
            f"layer {name} is a {type(layer).__name__}, whose multiply-adds are not known; "
            "profile a model of 2D convolutions, dense layers and normalisations"
        )


def _counted(layer, shape: tuple, name: str) -> _Call:
    """The cost of a convolution or dense layer: outputs, times weights that go into each."""
    layers = keras.layers
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise UserError(f"layer {name} has its channels first: build the model with channels last")
    output_shape = tuple(layer.compute_output_shape(shape))
    if None in shape[1:] or None in output_shape[1:]:
        raise UserError(
            f"layer {name} has no fixed input size, got {tuple(shape)}; "
            "build the model with an input_shape such as (224, 224, 3)"
        )
    channels_in, outputs = shape[-1], math.prod(output_shape[1:])
    if isinstance(layer, layers.Dense):
        return _Call(name, layer, outputs * channels_in, outputs, output_shape)
    if isinstance(layer, layers.SeparableConv2D):  # A depthwise convolution, then one of 1x1.
        wide = channels_in * layer.depth_multiplier
        between = math.prod(output_shape[1:-1]) * wide
        macs = between * math.prod(layer.kernel_size) + outputs * wide
        return _Call(name, layer, macs, between + outputs, output_shape)
    if isinstance(layer, layers.DepthwiseConv2D):
        return _Call(name, layer, outputs * math.prod(layer.kernel_size), outputs, output_shape)
    if isinstance(layer, layers.Conv2DTranspose):  # Each input goes into a window of outputs.
        macs = math.prod(shape[1:]) * math.prod(layer.kernel_size) * layer.filters
        return _Call(name, layer, macs, outputs, output_shape)
    window = math.prod(layer.kernel_size) * (channels_in // layer.groups)
    return _Call(name, layer, outputs * window, outputs, output_shape)


def _resolutions(calls: list[_Call]) -> Iterator[str]:
    current = None
    for call in calls:
        positions = call.output_shape[1:-1]
        if positions and (math.prod(positions) > 1 or current is None):
            current = "x".join(map(str, positions))
        yield current if positions else "classifier"


def _stages(calls: list[_Call], spec: ModelSpec) -> Iterator[str]:
    stage_of_block = list(
        itertools.chain.from_iterable(
            [f"stage {index}"] * spec.scaled_repeats(row)
            for index, row in enumerate(spec.blocks, start=1)
        )
    )
    tops = [call.name.partition("/")[0] for call in calls]
    built = len({top for top in tops if top.startswith("blocks_")})
    if built != len(stage_of_block):
        raise UserError(
            f"the model has {built} blocks and {spec.name} has {len(stage_of_block)}; "
            "give the specification that it was built from"
        )
    for top in tops:
        step, _, index = top.partition("_")  # "stem_conv", "blocks_3", "head_bn", "classifier"
        yield stage_of_block[int(index)] if step == "blocks" else step
