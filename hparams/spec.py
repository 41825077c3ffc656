"""Architecture specifications: rows of equal blocks, scaling rules, and JSON files.

Named architectures are in `models.py`; to add one, add a row there.
"""

import dataclasses
import json
import math
import os
import re
import reprlib
import types
import typing
from typing import Literal

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import atomic_write
from efficientnetv2.hparams.config import ACTIVATIONS
from efficientnetv2.hparams.overrides import nearest

CHANNEL_DIVISOR = 8
# Minimum and maximum; a larger value is likely a typo and would exhaust the memory.
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
_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9._-]*")  # What TensorFlow accepts as a scope.


@dataclasses.dataclass(frozen=True)
class Blocks:
    """`repeats` equal blocks, of which only the first changes stride and channels.

    Channels are before width scaling; `se_ratio` is relative to the channels of a block's input.
    """

    kind: Literal["fused", "mbconv"]
    repeats: int
    kernel: int
    stride: int
    expand: int
    channels_in: int
    channels: int
    se_ratio: float = 0.0


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Everything that determines what a network computes, except its weights and its classes.

    `normalization` is applied to pixels in [0, 255]: "centered" is (x - 128) / 128, "inception"
    (x - 127.5) / 127.5, "imagenet" subtracts the ImageNet mean and divides by its standard
    deviation. `padding` is that of strided convolutions: "same" as in TensorFlow, or "symmetric",
    kernel // 2 zeros on every side, as in PyTorch. `norm` is "batch" or "group". An `output_stride`
    of 8 or 16 replaces later strides with dilation.
    """

    name: str
    blocks: tuple[Blocks, ...]
    width_coefficient: float = 1.0
    depth_coefficient: float = 1.0
    head_channels: int = 1280
    dropout_rate: float = 0.2
    drop_path_rate: float = 0.2
    normalization: Literal["centered", "inception", "imagenet"] = "centered"
    stem_stride: int = 2
    output_stride: int | None = None
    padding: Literal["same", "symmetric"] = "same"
    activation: str = "silu"
    norm: Literal["batch", "group"] = "batch"
    gn_groups: int = 8
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-3
    keep_90_percent: bool = False

    def scaled_channels(self, channels: int) -> int:
        """Returns the channels after width scaling: the nearest multiple of 8, at least 8.

        Source: official rule of V2. With `keep_90_percent`, as in EfficientNetV1, rounding never
        removes more than a tenth.
        """
        wanted = channels * self.width_coefficient
        rounded = int(wanted + CHANNEL_DIVISOR / 2) // CHANNEL_DIVISOR * CHANNEL_DIVISOR
        rounded = max(CHANNEL_DIVISOR, rounded)
        if self.keep_90_percent and rounded < 0.9 * wanted:
            rounded += CHANNEL_DIVISOR
        return rounded

    def scaled_repeats(self, row: Blocks) -> int:
        """Returns the blocks of a row after depth scaling. Source: official rule, rounded up."""
        return math.ceil(row.repeats * self.depth_coefficient)

    def scaled_blocks(self) -> tuple[Blocks, ...]:
        """Returns one row per block that is built, in order: scaled, with `repeats` 1."""
        built = []
        for row in self.blocks:
            first = dataclasses.replace(
                row,
                repeats=1,
                channels_in=self.scaled_channels(row.channels_in),
                channels=self.scaled_channels(row.channels),
            )
            rest = dataclasses.replace(first, stride=1, channels_in=first.channels)
            built += [first] + [rest] * (self.scaled_repeats(row) - 1)
        return tuple(built)

    def strides(self) -> list[tuple[int, int]]:
        """Returns stride and dilation of each block that is built.

        Once the output stride is reached, blocks no longer stride; the blocks after them are
        dilated instead, so that each sees the pixels that its weights were trained on.
        Source: arXiv 1606.00915 (atrous convolution).
        """
        current, dilation, result = self.stem_stride, 1, []
        for block in self.scaled_blocks():
            if block.stride > 1 and self.output_stride and current >= self.output_stride:
                result.append((1, dilation))
                dilation *= block.stride
            else:
                result.append((block.stride, dilation))
                current *= block.stride
        return result


def scale_spec(
    spec: ModelSpec,
    name: str,
    *,
    width: float = 1.0,
    depth: float = 1.0,
    late_depth: float | None = None,
) -> ModelSpec:
    """Returns a larger architecture: `width` times the channels, `depth` times the layers.

    With `late_depth`, the factor of the layers grows linearly from `depth` in the first row to
    `late_depth` in the last, so that layers are added where the resolution is low.
    Raises: UserError if a factor is not positive and finite.
    Source: paper section 3.3, "scaling": compound scaling, and more layers in later stages; the
    paper gives no formula, and its M and L were rounded by hand and got a seventh stage. Channels
    and layers are rounded as elsewhere; the head keeps its channels, as in the paper's models.
    """
    late_depth = depth if late_depth is None else late_depth
    for key, factor in (("width", width), ("depth", depth), ("late_depth", late_depth)):
        if not 0 < factor < math.inf:
            raise UserError(f"{key} must be a factor above 0, got {factor}")
    steps = max(1, len(spec.blocks) - 1)
    wide = dataclasses.replace(spec, width_coefficient=spec.width_coefficient * width)
    rows = tuple(
        dataclasses.replace(
            row,
            repeats=math.ceil(
                round(spec.scaled_repeats(row) * (depth + (late_depth - depth) * i / steps), 6)
            ),
            channels_in=wide.scaled_channels(row.channels_in),
            channels=wide.scaled_channels(row.channels),
        )
        for i, row in enumerate(spec.blocks)
    )
    return dataclasses.replace(
        spec,
        name=name,
        blocks=rows,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        head_channels=spec.scaled_channels(spec.head_channels),
    )


def is_spec_file(name: str) -> bool:
    """Returns whether a model name is the path of a specification."""
    return name.endswith(".json")


def save_spec(spec: ModelSpec, path: str) -> None:
    """Writes a specification to a file atomically; `load_spec` returns an equal one."""
    atomic_write(path, json.dumps(dataclasses.asdict(spec), indent=1) + "\n")


def load_spec(path: str) -> ModelSpec:
    """Reads a specification; omitted fields have the defaults of `ModelSpec`.

    Raises: UserError, one line with the file and the field, for a field that is missing, unknown,
    of the wrong type or out of range.
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

    Raises: UserError, one line with the file, if it cannot be read or contains anything else.
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
    """Checks constraints that types cannot express; returns `spec`.

    Raises: UserError naming its origin `where`, the field and the value.
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
    """Builds a `kind`, a dataclass, from a mapping of its fields; lists are given as tuples.

    Raises: UserError naming the origin `where` and the field that is unknown, missing or invalid.
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
