"""Search spaces: their parameters and choices, the network of a point, and JSON files.

Source: paper section 3.3: per stage the kind of convolution, the number of layers, the kernel and
the expansion are searched; the channels are those of the backbone. There is no choice of pooling
or of any other operation. docs/search.md describes the format of the files; those in `spaces/` are
available by name.
"""

import dataclasses
import math
import os
import reprlib
import typing
from collections.abc import Callable, Iterator

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams import nearest
from efficientnetv2.hparams.models import get_spec
from efficientnetv2.hparams.spec import (
    Blocks,
    ModelSpec,
    check_spec,
    read_fields,
    read_object,
    scale_spec,
)

BACKBONE = "backbone"  # The parameter that selects one, if there are several.
# Parameters of a stage: name -> field of `StageSlot` with the choices.
_PARTS = {"kind": "kinds", "repeats": "repeats", "kernel": "kernels", "expand": "expands"}
_SPACE_FIELDS = ("name", "backbones", "se_ratios", "activations", "baseline")
# Set once for the space, as defaults of stages that do not set their own.
_SHARED = ("kinds", "kernels", "expands", "repeats")
_KINDS = ("mbconv", "fused")
_SE_RATIOS = {"mbconv": [0.25], "fused": [0.0]}
_NO_CONSTANTS = ("name", "blocks", "width_coefficient", "depth_coefficient", "keep_90_percent")
_SEARCHED = ("head_channels", "activation")  # Have their own fields.


@dataclasses.dataclass(frozen=True)
class StageSlot:
    """A row of blocks: channels and stride are fixed, the rest is searched."""

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
    channels_in: int  # Input of the first stage: the output of the stem.
    head_channels: int
    stages: tuple[StageSlot, ...]
    constants: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """A search space. Read one with `load_space`.

    `se_ratios` are the choices for each kind of block, one for all stages; `baseline` is the
    network that rewards are relative to: a name or file as for `get_spec`, or values of the space's
    own parameters.
    """

    name: str
    backbones: tuple[Backbone, ...]
    se_ratios: dict[str, tuple[float, ...]]
    activations: tuple[str, ...]
    baseline: str | dict


def choices(space: SearchSpace) -> dict[str, tuple]:
    """Returns each parameter with its choices; parameters with only one choice are omitted.

    Names are "stage1.kind", "stage1.repeats", "stage1.kernel", "stage1.expand", …, "se.mbconv",
    "se.fused", "activation". With several backbones there is also "backbone", and the stages'
    names start with the backbone's, as in "efficientnet-b4.stage1.kind": only those of the
    chosen backbone matter.
    """
    found = {BACKBONE: tuple(backbone.name for backbone in space.backbones)}
    for backbone in space.backbones:
        found.update(_options(space, backbone))
    return {name: options for name, options in found.items() if len(options) > 1}


def draw(space: SearchSpace, choose: Callable[[str, tuple], object]) -> dict:
    """Returns a point, calling `choose(name, choices)` for each parameter that matters to it."""
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
    """Returns the network at a point, given as {parameter: choice}, under a new `name`.

    Parameters of other backbones than the chosen one are ignored.
    Raises: UserError for an unknown or missing parameter, or a value that is not a valid choice.
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
    """Returns the point of a network, for which `spec_at` returns the same network.

    If no stage determines the squeeze-and-excite of a kind, its first choice is used.
    Raises: UserError naming the field that is not in the space; with several backbones, for the
    closest one.
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

    Raises: UserError for an unknown name, an invalid file, or values that are not a valid point.
    """
    if isinstance(space.baseline, str):
        return get_spec(space.baseline)
    return spec_at(space, space.baseline, f"{space.name}-baseline")


def _parameter(space: SearchSpace, backbone: Backbone, number: int, part: str) -> str:
    prefix = f"{backbone.name}." if len(space.backbones) > 1 else ""
    return f"{prefix}stage{number}.{part}"


def _options(space: SearchSpace, backbone: Backbone) -> dict[str, tuple]:
    """Returns all parameters of a backbone's networks, including those with one choice."""
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
    """Returns the value of a parameter, or its only choice if there is just one."""
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
    """Yields (field, value in `spec`, allowed values, parameter or None) for all that matter."""
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
    scaling = {"width_coefficient", "depth_coefficient", "keep_90_percent"}  # Already applied.
    for field in dataclasses.fields(ModelSpec):
        if field.name not in searched | scaling:
            yield field.name, getattr(spec, field.name), (getattr(plain, field.name),), None


_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "spaces")


def space_names() -> list[str]:
    """Returns the names that `load_space` knows."""
    return sorted(
        file.removesuffix(".json") for file in os.listdir(_FOLDER) if file.endswith(".json")
    )


def load_space(name_or_path: str) -> SearchSpace:
    """Returns a search space by its name, or from a JSON file.

    Raises: UserError, one line with the file and the field, for a value that is unknown, missing,
    of the wrong type, or would give a network that cannot be built.
    """
    path = name_or_path
    if not name_or_path.endswith(".json"):
        if name_or_path not in space_names():
            raise UserError(
                f"unknown search space {name_or_path!r}{nearest(name_or_path, space_names())}"
            )
        path = os.path.join(_FOLDER, f"{name_or_path}.json")
    values = read_object(path, "the search space")
    known = (*_SPACE_FIELDS, *_SHARED, "constants")
    for key in values:
        if key not in known:
            raise UserError(f"{path} has an unknown field {key!r}{nearest(key, known)}")
    shared = {key: values.pop(key) for key in _SHARED if key in values}
    constants = _object(values.pop("constants", {}), f"{path}: constants")
    backbones = values.get("backbones")
    if not isinstance(backbones, list) or not backbones:
        raise UserError(f'{path} needs "backbones", a list of at least one')
    ratios = _object(values.get("se_ratios", {}), f"{path}: se_ratios")
    fields = {
        "name": os.path.basename(path).removesuffix(".json"),
        "activations": ["silu"],
        **values,
        "se_ratios": {**_SE_RATIOS, **ratios},
        "backbones": tuple(
            _backbone(row, shared, constants, f"{path}: backbones[{i}]")
            for i, row in enumerate(backbones)
        ),
    }
    return _checked(_space(fields, path), path)


def _space(fields: dict, path: str) -> SearchSpace:
    for key in ("name", "baseline"):
        if key not in fields:
            raise UserError(f"{path} lacks {key}; it has {', '.join(fields)}")
    if not isinstance(fields["name"], str):
        raise UserError(f"{path}: name must be a text, got {reprlib.repr(fields['name'])}")
    if not isinstance(fields["baseline"], (str, dict)):
        raise UserError(
            f"{path}: baseline must be the name of an architecture or an object of parameters, "
            f"got {reprlib.repr(fields['baseline'])}"
        )
    ratios = fields["se_ratios"]
    for kind in ratios:
        if kind not in _KINDS:
            raise UserError(
                f"{path}: se_ratios has an unknown kind {kind!r}{nearest(kind, _KINDS)}"
            )
    fields["se_ratios"] = {
        kind: _choices(ratios[kind], (int, float), f"{path}: se_ratios.{kind}") for kind in ratios
    }
    fields["activations"] = _choices(fields["activations"], (str,), f"{path}: activations")
    return SearchSpace(**fields)


def _backbone(values, shared: dict, constants: dict, where: str) -> Backbone:
    values = dict(_object(values, where))
    stages = values.get("stages")
    if not isinstance(stages, list) or not stages:
        raise UserError(f'{where} needs "stages", a list of at least one')
    own = _object(values.get("constants", {}), f"{where}: constants")
    allowed = [f.name for f in dataclasses.fields(ModelSpec)]
    allowed = [name for name in allowed if name not in _NO_CONSTANTS + _SEARCHED]
    for key in (*constants, *own):
        if key not in allowed:
            raise UserError(
                f"{where}: constants has an unknown field {key!r}{nearest(key, allowed)}"
            )
    slots = tuple(
        _slot({**shared, **_object(row, f"{where}: stages[{i}]")}, f"{where}: stages[{i}]")
        for i, row in enumerate(stages)
    )
    fields = {**values, "stages": slots, "constants": {**constants, **own}}
    backbone = read_fields(Backbone, fields, where)
    for field in ("channels_in", "head_channels"):
        _check_channels(getattr(backbone, field), f"{where}: {field}")
    read_fields(ModelSpec, {"name": "x", "blocks": (), **backbone.constants}, f"{where}: constants")
    return backbone


def _slot(values: dict, where: str) -> StageSlot:
    for field, kind in typing.get_type_hints(StageSlot).items():
        if field in values and typing.get_origin(kind) is tuple:
            item = typing.get_args(kind)[0]
            values[field] = _choices(values[field], (item,), f"{where}: {field}")
    slot = read_fields(StageSlot, values, where)
    _check_channels(slot.channels, f"{where}: channels")
    for kind in slot.kinds:
        if kind not in _KINDS:
            raise UserError(f"{where}: kinds has an unknown kind {kind!r}{nearest(kind, _KINDS)}")
    return slot


def _choices(values, kinds: tuple, where: str) -> tuple:
    """Checks the choices of a parameter: at least one, of these types, without duplicates."""
    fits = isinstance(values, list) and all(type(value) in kinds for value in values)
    if not fits or not values or len(set(values)) != len(values):
        words = {int: "whole numbers", float: "numbers", str: "texts"}[kinds[-1]]
        raise UserError(f"{where} must be a list of different {words}, got {reprlib.repr(values)}")
    return tuple(values)


def _check_channels(channels: int, where: str) -> None:
    if channels < 8 or channels % 8:
        raise UserError(f"{where} must be a multiple of 8, as networks are built, got {channels}")


def _object(values, where: str) -> dict:
    if not isinstance(values, dict):
        raise UserError(f"{where} must be an object of fields, got {reprlib.repr(values)}")
    return values


def _checked(space: SearchSpace, path: str) -> SearchSpace:
    """Checks that each choice and the deepest point give networks that can be built."""
    names = [backbone.name for backbone in space.backbones]
    if len(set(names)) != len(names):
        raise UserError(f"{path}: backbones must have different names, got {', '.join(names)}")
    options = choices(space)
    for backbone in names:
        first = {name: allowed[0] for name, allowed in options.items()}
        if BACKBONE in first:
            first[BACKBONE] = backbone
        deepest = {n: max(a) if n.endswith(".repeats") else a[0] for n, a in options.items()}
        points = [{**deepest, **({BACKBONE: backbone} if BACKBONE in first else {})}]
        points += [{**first, n: value} for n, allowed in options.items() for value in allowed]
        for point in points:
            check_spec(spec_at(space, point, "point"), path)
    baseline_spec(space)
    return space
