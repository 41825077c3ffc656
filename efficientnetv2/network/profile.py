"""Profile of a network: parameters, multiply-adds, activations and size, in total and per part.

Costs are computed from layer shapes alone; nothing is run. They are the multiply-adds (MACs, called
FLOPs in papers of this field) of convolutions and dense layers, and their activations, the number
of values they output per image. Bias additions, normalization, activation functions, pooling and
the scaling of squeeze-and-excite count as zero in both.
Source: counting rules of arXiv 1905.11946; activations as in arXiv 2003.13678 and timm's tables.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import keras

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams.models import Figure, Published, get_spec, published_figures
from efficientnetv2.hparams.spec import ModelSpec
from efficientnetv2.network.blocks import FusedMBConv, MBConv
from efficientnetv2.network.compat import functional_calls
from efficientnetv2.network.keras_models import PREFIX, build_keras_model
from efficientnetv2.network.layers import SqueezeExcite
from efficientnetv2.network.model import build_network

_SCALES = (  # Have weights, and a fixed number of operations per value, which is not counted.
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
_BYTES_PER_PARAM = 4  # float32.
_COLUMNS = (
    "model",
    "size",
    "params (M)",
    "trained (M)",
    "published",
    "FLOPs (B)",
    "published",
    "activations (M)",
    "MB",
)
_LEGEND = """\
FLOPs are multiply-adds per image; activations are the outputs of convolutions and dense layers;
MB is the size of the float32 weights. "trained" leaves out moving averages, as most published
figures do. In brackets: how far a count is from a figure that it neither rounds to nor, FLOPs,
comes within 3% of."""


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """Cost of a layer with weights. `macs` and `activations` are per image, over all its calls."""

    name: str  # As in "blocks_3/expand_conv".
    part: str  # Of the network: "stem", "stage 1", …, "head", "classifier"; or a resolution.
    params: int  # Including non-trainable ones, such as BatchNorm's moving averages.
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
    """Returns the cost of each layer of a functional or sequential model with a fixed input size.

    With `spec`, from which `build_model` built the model, a part is the stem, a row of blocks
    ("stage 1" is the first), the head or the classifier. Otherwise it is the output resolution of
    its layers ("56x56"; squeeze-and-excite counts toward that of its surroundings), or "classifier"
    for dense layers on pooled features, which have no resolution.

    Raises: UserError if the input size is not fixed, if a layer with weights is of an unknown type,
    or if `spec` has a different number of blocks.
    """
    calls = list(_calls_of_model(model, ""))
    parts = _resolutions(calls) if spec is None else _stages(calls, spec)
    costs: dict[int, LayerCost] = {}
    for call, part in zip(calls, parts):
        fresh = LayerCost(call.name, part, call.layer.count_params(), 0, 0)
        so_far = costs.get(id(call.layer), fresh)  # A second call adds no weights.
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
        if not isinstance(layer, SqueezeExcite):  # Keeps the shape; Keras cannot infer it.
            shape = tuple(layer.compute_output_shape(shape))


def _calls(layer, shape: tuple, path: str) -> Iterator[_Call]:
    """Yields what is computed inside one call of `layer` on an input of `shape`."""
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
    """Returns the cost of a convolution or dense layer: outputs times weights per output."""
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
    if isinstance(layer, layers.SeparableConv2D):  # Depthwise, then 1x1 convolution.
        wide = channels_in * layer.depth_multiplier
        between = math.prod(output_shape[1:-1]) * wide
        macs = between * math.prod(layer.kernel_size) + outputs * wide
        return _Call(name, layer, macs, between + outputs, output_shape)
    if isinstance(layer, layers.DepthwiseConv2D):
        return _Call(name, layer, outputs * math.prod(layer.kernel_size), outputs, output_shape)
    if isinstance(layer, layers.Conv2DTranspose):  # An input contributes to a window of outputs.
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


@dataclasses.dataclass(frozen=True)
class Part:
    """Cost of a stage of a network, or its stem, head or classifier; see `LayerCost`."""

    name: str
    params: int
    macs: int
    activations: int


@dataclasses.dataclass(frozen=True)
class Profile:
    """Cost of a network for one image of `image_size` x `image_size` pixels."""

    model: str
    image_size: int
    params: int
    trainable_params: int  # Without BatchNorm's moving averages; the number that papers report.
    macs: int
    activations: int
    parts: tuple[Part, ...]  # In order, from the image to the logits.
    published: tuple[Published, ...] = ()  # Only for a named architecture.

    @property
    def megabytes(self) -> float:
        """The size of the weights on disk, as float32, in units of 10^6 bytes."""
        return self.params * _BYTES_PER_PARAM / 1e6


def profile_model(name_or_spec: str | ModelSpec, image_size: int) -> Profile:
    """Builds a network without its preprocessing, for 1000 classes, and profiles it.

    Any name that `build_model` takes is valid. Published figures are included for names only: a
    specification may differ from its namesake.
    Raises: UserError for an unknown name, or a size that is not a positive integer.
    """
    if not isinstance(image_size, int) or image_size < 1:
        raise UserError(f"image_size must be a positive number of pixels, got {image_size}")
    shape = (image_size, image_size, 3)
    if not isinstance(name_or_spec, str):
        return _profile_spec(name_or_spec, shape)
    if name_or_spec.startswith(PREFIX):  # Some of these always include preprocessing.
        profile = profile_built(build_keras_model(name_or_spec, input_shape=shape))
        return dataclasses.replace(profile, model=name_or_spec)
    profile = _profile_spec(get_spec(name_or_spec), shape)
    return dataclasses.replace(profile, published=published_figures(name_or_spec))


def _profile_spec(spec: ModelSpec, shape: tuple[int, int, int]) -> Profile:
    model = build_network(spec, include_preprocessing=False, input_shape=shape)
    return profile_built(model, spec)


def profile_built(model: keras.Model, spec: ModelSpec | None = None) -> Profile:
    """Profiles a functional or sequential model with a fixed, square input size.

    Its parts are those of `spec` if it was built from one, else resolutions.
    Raises: UserError as `layer_costs` does, or if the input is not square or not one image.
    """
    shape = model.input_shape
    if len(shape) != 4 or shape[1] is None or shape[1] != shape[2]:
        raise UserError(
            f"cannot profile {model.name} with an input of {shape}; "
            "build it with a square input_shape such as (224, 224, 3)"
        )
    parts: dict[str, Part] = {}
    for cost in layer_costs(model, spec):
        so_far = parts.get(cost.part, Part(cost.part, 0, 0, 0))
        parts[cost.part] = Part(
            cost.part,
            so_far.params + cost.params,
            so_far.macs + cost.macs,
            so_far.activations + cost.activations,
        )
    return Profile(
        model=model.name,
        image_size=shape[1],
        params=sum(part.params for part in parts.values()),
        trainable_params=sum(math.prod(w.shape) for w in model.trainable_weights),
        macs=sum(part.macs for part in parts.values()),
        activations=sum(part.activations for part in parts.values()),
        parts=tuple(parts.values()),
    )


def profile_table(profiles: Sequence[Profile]) -> str:
    """Returns one line per profile, with published figures next to the counts, and a legend.

    Published FLOPs are shown only if they are for the image size of the profile.
    """
    rows = [_COLUMNS] + [_row(profile) for profile in profiles]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join([row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:])])
        for row in rows
    ]
    return "\n".join([*lines, "", _LEGEND])


def _row(profile: Profile) -> tuple[str, ...]:
    params = [_params_cell(profile, known) for known in profile.published]
    macs = [
        _cell(known.macs, profile.macs, known.macs_agree(profile.macs))
        for known in profile.published
        if known.macs and known.image_size == profile.image_size
    ]
    return (
        profile.model,
        str(profile.image_size),
        f"{profile.params / 1e6:.2f}",
        f"{profile.trainable_params / 1e6:.2f}",
        ", ".join(params) or "-",
        f"{profile.macs / 1e9:.3f}",
        ", ".join(macs) or "-",
        f"{profile.activations / 1e6:.1f}",
        f"{profile.megabytes:.1f}",
    )


def _params_cell(profile: Profile, known: Published) -> str:
    agree = known.params_agree(profile.params, profile.trainable_params)
    return _cell(known.params, profile.trainable_params, agree)


def _cell(figure: Figure, count: int, agree: bool | None) -> str:
    return figure.digits if agree else f"{figure.digits} ({figure.difference(count):+.1%})"


def profile_record(profile: Profile) -> dict:
    """Returns the counts, those of each part and the published figures, ready for `json.dump`.

    Units: counts per image. In published figures, `macs_agree` is None if the figure is missing or
    for another size; `macs_difference` is how much larger this count is, as a fraction.
    """
    record = dataclasses.asdict(profile)
    record["megabytes"] = profile.megabytes
    record["published"] = [_published_record(profile, known) for known in profile.published]
    return record


def _published_record(profile: Profile, known: Published) -> dict:
    comparable = known.macs is not None and known.image_size == profile.image_size
    return {
        "source": known.source,
        "image_size": known.image_size,
        "params": known.params.value,
        "params_agree": known.params_agree(profile.params, profile.trainable_params),
        "macs": known.macs.value if known.macs else None,
        "macs_agree": known.macs_agree(profile.macs) if comparable else None,
        "macs_difference": known.macs.difference(profile.macs) if comparable else None,
    }
