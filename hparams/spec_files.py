"""An architecture as a JSON file: the fields of `ModelSpec` by name, `blocks` a list of rows."""

import dataclasses
import json
import math
import os
import re
import reprlib
import types
import typing

from hparams.architectures import Blocks, ModelSpec
from hparams.config import ACTIVATIONS
from hparams.errors import UserError
from hparams.overrides import nearest
from hparams.whole_files import write_whole

# Least and most; more is a slip of the hand, and would end in a lack of memory.
_ROW_LIMITS = {
    "repeats": (1, 1000),
    "kernel": (1, 99),
    "stride": (1, 2),
    "expand": (1, 100),
    "channels_in": (1, 16_384),
    "channels": (1, 16_384),
    "se_ratio": (0, 1),
}
_LIMITS = {
    "width_coefficient": (1e-3, 100),
    "depth_coefficient": (1e-3, 100),
    "head_channels": (1, 16_384),
    "stem_stride": (1, 2),
    "gn_groups": (1, 16_384),
    "bn_epsilon": (1e-12, 1),
}
_MOST_BLOCKS = 1000
_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9._-]*")  # What TensorFlow takes for a scope.


def is_spec_file(name: str) -> bool:
    """Whether a model name is the path of a specification."""
    return name.endswith(".json")


def save_spec(spec: ModelSpec, path: str) -> None:
    """Writes a specification that `load_spec` reads to an equal one, whole or not at all."""
    write_whole(path, json.dumps(dataclasses.asdict(spec), indent=1) + "\n")


def load_spec(path: str) -> ModelSpec:
    """Reads a specification; what is left out takes the default of `ModelSpec`.

    Raises: UserError, one line with the file and the field, for what is missing, unknown, of
    another type or impossible.
    """
    values = read_object(path, "the architecture")
    rows = values.get("blocks")
    if not isinstance(rows, list) or not rows:
        raise UserError(f'{path} needs "blocks", a list of at least one row')
    blocks = tuple(read_fields(Blocks, row, f"{path}: blocks[{i}]") for i, row in enumerate(rows))
    name = os.path.basename(path).removesuffix(".json")
    spec = read_fields(ModelSpec, {"name": name, **values, "blocks": blocks}, path)
    return check_spec(spec, path)


def read_object(path: str, what: str) -> dict:
    """Reads an object of fields from a JSON file.

    Raises: UserError, one line with the file, if it cannot be read or holds anything else.
    """
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
    except OSError as error:
        raise UserError(f"cannot read {what} {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold an object of fields, got {reprlib.repr(values)}")
    return values


def check_spec(spec: ModelSpec, where: str) -> ModelSpec:
    """Checks what types cannot say; returns `spec`.

    Raises: UserError naming `where` it is from, the field and the value.
    """
    for i, row in enumerate(spec.blocks):
        _check_limits(row, _ROW_LIMITS, f"{where}: blocks[{i}]")
        if row.kernel % 2 == 0:
            raise UserError(f"{where}: blocks[{i}]: kernel must be odd, got {row.kernel}")
        if i and row.channels_in != spec.blocks[i - 1].channels:
            raise UserError(
                f"{where}: blocks[{i}]: channels_in={row.channels_in} must be the channels of the "
                f"row before, {spec.blocks[i - 1].channels}"
            )
    _check_limits(spec, _LIMITS, where)
    for field in ("dropout_rate", "drop_path_rate", "bn_momentum"):
        if not 0 <= getattr(spec, field) < 1:
            raise UserError(f"{where}: {field} must be in [0, 1), got {getattr(spec, field)}")
    for field, choices in (("output_stride", (None, 8, 16, 32)), ("activation", ACTIVATIONS)):
        if getattr(spec, field) not in choices:
            words = ", ".join("null" if choice is None else str(choice) for choice in choices)
            got = reprlib.repr(getattr(spec, field))
            raise UserError(f"{where}: {field} must be one of {words}, got {got}")
    if not _NAME.fullmatch(spec.name):
        raise UserError(
            f"{where}: name must be of letters, digits, '.', '_' and '-', and start with neither "
            f"of the last two, got {reprlib.repr(spec.name)}"
        )
    _check_built(spec, where)
    return spec


def _check_limits(part, limits: dict, where: str) -> None:
    for field, (least, most) in limits.items():
        value = getattr(part, field)
        if not least <= value <= most:
            shown = reprlib.repr(value)
            raise UserError(f"{where}: {field} must be from {least} to {most}, got {shown}")


def _check_built(spec: ModelSpec, where: str) -> None:
    """Checks the sizes after scaling."""
    count = sum(map(spec.scaled_repeats, spec.blocks))
    if count > _MOST_BLOCKS:
        raise UserError(f"{where}: {count} blocks are too many; at most {_MOST_BLOCKS} are built")
    rows = [{row.channels_in, row.channels} for row in spec.blocks]
    channels = {spec.scaled_channels(c) for c in set().union(*rows, {spec.head_channels})}
    most = _LIMITS["head_channels"][1]
    if max(channels) > most:
        raise UserError(
            f"{where}: width_coefficient={spec.width_coefficient} gives {max(channels)} channels; "
            f"at most {most} are built"
        )
    odd = [c for c in sorted(channels) if c % spec.gn_groups]
    if spec.norm == "group" and odd:
        raise UserError(f"{where}: gn_groups={spec.gn_groups} must divide all channels, so {odd}")


def read_fields(kind, values, where: str):
    """Returns a `kind`, a dataclass, from a mapping of its fields; lists are given as tuples.

    Raises: UserError naming `where` it is from and the field that is unknown, missing or no fit.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where} must be an object of fields, got {reprlib.repr(values)}")
    hints = typing.get_type_hints(kind)
    for key, value in values.items():
        if key not in hints:
            raise UserError(f"{where} has an unknown field {key!r}{nearest(key, hints)}")
        if not _fits(value, hints[key]):
            got = reprlib.repr(value)
            raise UserError(f"{where}: {key} must be {_words(hints[key])}, got {got}")
    needed = [f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING]
    for key in needed:
        if key not in values:
            raise UserError(f"{where} lacks {key}; it has {', '.join(values) or 'nothing'}")
    return kind(**values)


def _fits(value, hint) -> bool:
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(hint))
    if hint is float:
        return type(value) is int or (type(value) is float and math.isfinite(value))
    return isinstance(value, tuple) if typing.get_origin(hint) is tuple else type(value) is hint


def _words(hint) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if isinstance(hint, types.UnionType):
        return " or ".join(names.get(part, "null") for part in typing.get_args(hint))
    return names[hint]
