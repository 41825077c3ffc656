"""A search space as a JSON file; docs/search.md has the format. Those of `spaces/` go by name."""

import dataclasses
import os
import reprlib
import typing

from hparams import UserError, nearest
from hparams.architectures import ModelSpec
from hparams.spec_files import check_spec, read_fields, read_object
from search.space import BACKBONE, Backbone, SearchSpace, StageSlot, baseline_spec, choices, spec_at

_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "spaces")
_SPACE_FIELDS = ("name", "backbones", "se_ratios", "activations", "baseline")
# Given once for the space, in force in each stage that does not have its own.
_SHARED = ("kinds", "kernels", "expands", "repeats")
_KINDS = ("mbconv", "fused")
_SE_RATIOS = {"mbconv": [0.25], "fused": [0.0]}
_NO_CONSTANTS = ("name", "blocks", "width_coefficient", "depth_coefficient", "keep_90_percent")
_SEARCHED = ("head_channels", "activation")  # Have fields of their own.


def space_names() -> list[str]:
    """Returns the names that `load_space` knows."""
    return sorted(
        file.removesuffix(".json") for file in os.listdir(_FOLDER) if file.endswith(".json")
    )


def load_space(name_or_path: str) -> SearchSpace:
    """Returns a search space by its name, or from a JSON file.

    Raises: UserError, one line with the file and the field, for what is unknown, missing, of
    another type, or would give a network that cannot be built.
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
    """Choices of a parameter: at least one, of one of these types, each once."""
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
    """Checks that each choice gives a network that can be built, and so does the deepest point."""
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
