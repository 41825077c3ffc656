"""The points of a search space: which choices it leaves open, and the network that they make.

Source: paper section 3.3: per stage the kind of convolution, the number of layers, the kernel and
the expansion are searched; the channels are those of the backbone. There is no choice of pooling
or of any other operation.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

from hparams import UserError, nearest
from hparams.architecture_tables import get_spec
from hparams.architectures import Blocks, ModelSpec, scale_spec
from hparams.spec_files import check_spec

BACKBONE = "backbone"  # The parameter that says which one, where there are several.
# Of a stage: what a parameter is called, and where its choices are.
_PARTS = {"kind": "kinds", "repeats": "repeats", "kernel": "kernels", "expand": "expands"}


@dataclasses.dataclass(frozen=True)
class StageSlot:
    """A row of blocks: channels and stride are fixed, the rest is chosen."""

    channels: int
    stride: int
    repeats: tuple[int, ...]
    kinds: tuple[str, ...] = ("mbconv", "fused")
    kernels: tuple[int, ...] = (3, 5)
    expands: tuple[int, ...] = (1, 4, 6)


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A table of stages. `constants` are fields of `ModelSpec` that are not searched."""

    name: str
    channels_in: int  # Of the first stage, so those of the stem.
    head_channels: int
    stages: tuple[StageSlot, ...]
    constants: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """All that a search may propose. Read one with `space_files.load_space`.

    `se_ratios` are the choices for each kind of block, one for all stages; `baseline` is the
    network that rewards are relative to: a name or file as `get_spec` takes it, or values of the
    space's own parameters.
    """

    name: str
    backbones: tuple[Backbone, ...]
    se_ratios: dict[str, tuple[float, ...]]
    activations: tuple[str, ...]
    baseline: str | dict


def choices(space: SearchSpace) -> dict[str, tuple]:
    """Returns each parameter that is open, with its choices; those of one choice are left out.

    Names are "stage1.kind", "stage1.repeats", "stage1.kernel", "stage1.expand", …, "se.mbconv",
    "se.fused", "activation". With several backbones there is also "backbone", and the stages'
    names start with the backbone's, as in "efficientnet-b4.stage1.kind": only those of the
    backbone chosen matter.
    """
    found = {BACKBONE: tuple(backbone.name for backbone in space.backbones)}
    for backbone in space.backbones:
        found.update(_options(space, backbone))
    return {name: options for name, options in found.items() if len(options) > 1}


def draw(space: SearchSpace, choose: Callable[[str, tuple], object]) -> dict:
    """Returns a point, asking `choose(name, choices)` for each parameter that matters to it."""
    values = {}
    if len(space.backbones) > 1:
        names = tuple(backbone.name for backbone in space.backbones)
        values[BACKBONE] = choose(BACKBONE, names)
    for name, options in _options(space, _backbone_of(space, values)).items():
        if len(options) > 1:
            values[name] = choose(name, options)
    return values


def size(space: SearchSpace) -> int:
    """Returns the number of points."""
    return sum(
        math.prod(map(len, _options(space, backbone).values())) for backbone in space.backbones
    )


def spec_at(space: SearchSpace, values: dict, name: str) -> ModelSpec:
    """Returns the network called `name` at a point, given as {parameter: choice}.

    Parameters of another backbone than the chosen one are ignored.
    Raises: UserError for a parameter that is unknown or missing, or a value that is no choice.
    """
    _check_names(space, values)
    backbone = _backbone_of(space, values)
    options = _options(space, backbone)
    chosen = {key: _chosen(space, values, key, allowed) for key, allowed in options.items()}
    rows, channels_in = [], backbone.channels_in
    for number, stage in enumerate(backbone.stages, 1):
        row = {part: chosen[_parameter(space, backbone, number, part)] for part in _PARTS}
        se_ratio = chosen[f"se.{row['kind']}"]
        rows.append(
            Blocks(
                **row,
                stride=stage.stride,
                channels_in=channels_in,
                channels=stage.channels,
                se_ratio=se_ratio,
            )
        )
        channels_in = stage.channels
    spec = ModelSpec(
        name,
        tuple(rows),
        head_channels=backbone.head_channels,
        activation=chosen["activation"],
        **backbone.constants,
    )
    return check_spec(spec, f"search space {space.name}")


def values_of(space: SearchSpace, spec: ModelSpec) -> dict:
    """Returns the point that a network is, so that `spec_at` gives the same network.

    Where no stage shows the squeeze-and-excite of a kind, its first choice is taken.
    Raises: UserError naming the field that the space does not have; of several backbones, for the
    one that is nearest.
    """
    concrete = scale_spec(spec, spec.name)  # Channels and repeats as they are built.
    problems = []
    for backbone in space.backbones:
        values, matched = {}, 0
        if len(space.backbones) > 1:
            values[BACKBONE] = backbone.name
        problem = None
        for field, value, allowed, parameter in _fields(space, backbone, concrete):
            if value in allowed:
                matched += 1
                if parameter and len(allowed) > 1 and values.setdefault(parameter, value) != value:
                    problem = problem or f"{field}={value} must be as in the stages before"
            elif problem is None:
                words = " or ".join(map(str, allowed))
                problem = f"{field}={value} must be {words} on the backbone {backbone.name}"
        if problem is None:
            return {**_first_choices(space, backbone), **values}
        problems.append((matched, problem))
    nearest_one = max(problems, key=lambda pair: pair[0])
    raise UserError(f"{spec.name} is no point of the search space {space.name}: {nearest_one[1]}")


def baseline_spec(space: SearchSpace) -> ModelSpec:
    """Returns the network that step time and parameters are divided by.

    Raises: UserError for an unknown name, a bad file or values that are no point.
    """
    if isinstance(space.baseline, str):
        return get_spec(space.baseline)
    return spec_at(space, space.baseline, f"{space.name}-baseline")


def _parameter(space: SearchSpace, backbone: Backbone, number: int, part: str) -> str:
    prefix = f"{backbone.name}." if len(space.backbones) > 1 else ""
    return f"{prefix}stage{number}.{part}"


def _options(space: SearchSpace, backbone: Backbone) -> dict[str, tuple]:
    """Every parameter of a backbone's networks, those of one choice too."""
    found = {
        _parameter(space, backbone, number, part): getattr(stage, field)
        for number, stage in enumerate(backbone.stages, 1)
        for part, field in _PARTS.items()
    }
    found.update({f"se.{kind}": ratios for kind, ratios in space.se_ratios.items()})
    found["activation"] = space.activations
    return found


def _backbone_of(space: SearchSpace, values: dict) -> Backbone:
    if len(space.backbones) == 1:
        return space.backbones[0]
    by_name = {backbone.name: backbone for backbone in space.backbones}
    return by_name[_chosen(space, values, BACKBONE, tuple(by_name))]


def _chosen(space: SearchSpace, values: dict, name: str, allowed: tuple):
    """The value of a parameter; the only choice where there is but one."""
    if name not in values and len(allowed) == 1:
        return allowed[0]
    words = ", ".join(map(str, allowed))
    if name not in values:
        raise UserError(f"a point of the search space {space.name} needs {name}, one of {words}")
    if values[name] not in allowed:
        raise UserError(f"{name} must be one of {words} in {space.name}, got {values[name]!r}")
    return values[name]


def _check_names(space: SearchSpace, values: dict) -> None:
    known = {BACKBONE}.union(*(_options(space, backbone) for backbone in space.backbones))
    for name in values:
        if name not in known:
            raise UserError(f"unknown parameter {name!r} of {space.name}{nearest(name, known)}")


def _first_choices(space: SearchSpace, backbone: Backbone) -> dict:
    options = _options(space, backbone)
    return {name: allowed[0] for name, allowed in options.items() if len(allowed) > 1}


def _fields(space: SearchSpace, backbone: Backbone, spec: ModelSpec) -> Iterator[tuple]:
    """(field, value in `spec`, values that are allowed, parameter or None), all that count."""
    yield "the number of rows", len(spec.blocks), (len(backbone.stages),), None
    channels_in = backbone.channels_in
    for number, (row, stage) in enumerate(zip(spec.blocks, backbone.stages), 1):
        where = f"blocks[{number - 1}]"
        fixed = {"channels_in": channels_in, "channels": stage.channels, "stride": stage.stride}
        for field, value in fixed.items():
            yield f"{where}.{field}", getattr(row, field), (value,), None
        for part, field in _PARTS.items():
            parameter = _parameter(space, backbone, number, part)
            yield f"{where}.{part}", getattr(row, part), getattr(stage, field), parameter
        yield f"{where}.se_ratio", row.se_ratio, space.se_ratios[row.kind], f"se.{row.kind}"
        channels_in = stage.channels
    yield "head_channels", spec.head_channels, (backbone.head_channels,), None
    yield "activation", spec.activation, space.activations, "activation"
    plain = ModelSpec("", (), **backbone.constants)
    searched = {"name", "blocks", "head_channels", "activation"}
    scaling = {"width_coefficient", "depth_coefficient", "keep_90_percent"}  # Are built in.
    for field in dataclasses.fields(ModelSpec):
        if field.name not in searched | scaling:
            yield field.name, getattr(spec, field.name), (getattr(plain, field.name),), None
