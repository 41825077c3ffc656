"""The architectures: one table of named rows per family, and the rules that scale them.

Source: official block tables (the released models); the paper's Table 4 shows S.
"""

import dataclasses
import math
from typing import Literal

from hparams import UserError, nearest

CHANNEL_DIVISOR = 8


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


def _fused(repeats, stride, expand, channels_in, channels) -> Blocks:
    return Blocks("fused", repeats, 3, stride, expand, channels_in, channels)


def _mbconv(repeats, stride, expand, channels_in, channels) -> Blocks:
    return Blocks("mbconv", repeats, 3, stride, expand, channels_in, channels, se_ratio=0.25)


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """All that decides what a network computes, apart from its weights and its classes.

    `normalization` says what pixels in [0, 255] become: "centered" is (x - 128) / 128, "imagenet"
    subtracts the ImageNet mean and divides by its standard deviation.
    """

    name: str
    blocks: tuple[Blocks, ...]
    width_coefficient: float = 1.0
    depth_coefficient: float = 1.0
    head_channels: int = 1280
    dropout_rate: float = 0.2
    drop_path_rate: float = 0.2
    normalization: Literal["centered", "imagenet"] = "centered"
    stem_stride: int = 2
    activation: str = "silu"
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-3

    def scaled_channels(self, channels: int) -> int:
        """Channels after width scaling, a multiple of 8, at least 8.

        Source: official rule, without the "not below 90%" correction of EfficientNetV1.
        """
        steps = int(channels * self.width_coefficient + CHANNEL_DIVISOR / 2) // CHANNEL_DIVISOR
        return max(1, steps) * CHANNEL_DIVISOR

    def scaled_blocks(self) -> tuple[Blocks, ...]:
        """One row per block that is built: width and depth scaled, `repeats` 1, in order."""
        built = []
        for row in self.blocks:
            first = dataclasses.replace(
                row,
                repeats=1,
                channels_in=self.scaled_channels(row.channels_in),
                channels=self.scaled_channels(row.channels),
            )
            rest = dataclasses.replace(first, stride=1, channels_in=first.channels)
            repeats = math.ceil(row.repeats * self.depth_coefficient)
            built += [first] + [rest] * (repeats - 1)
        return tuple(built)


_BASE = (
    _fused(1, 1, 1, 32, 16),
    _fused(2, 2, 4, 16, 32),
    _fused(2, 2, 4, 32, 48),
    _mbconv(3, 2, 4, 48, 96),
    _mbconv(5, 1, 6, 96, 112),
    _mbconv(8, 2, 6, 112, 192),
)
_SMALL = (
    _fused(2, 1, 1, 24, 24),
    _fused(4, 2, 4, 24, 48),
    _fused(4, 2, 4, 48, 64),
    _mbconv(6, 2, 4, 64, 128),
    _mbconv(9, 1, 6, 128, 160),
    _mbconv(15, 2, 6, 160, 256),
)
_MEDIUM = (
    _fused(3, 1, 1, 24, 24),
    _fused(5, 2, 4, 24, 48),
    _fused(5, 2, 4, 48, 80),
    _mbconv(7, 2, 4, 80, 160),
    _mbconv(14, 1, 6, 160, 176),
    _mbconv(18, 2, 6, 176, 304),
    _mbconv(5, 1, 6, 304, 512),
)
_LARGE = (
    _fused(4, 1, 1, 32, 32),
    _fused(7, 2, 4, 32, 64),
    _fused(7, 2, 4, 64, 96),
    _mbconv(10, 2, 4, 96, 192),
    _mbconv(19, 1, 6, 192, 224),
    _mbconv(25, 2, 6, 224, 384),
    _mbconv(7, 1, 6, 384, 640),
)
_XLARGE = (
    _fused(4, 1, 1, 32, 32),
    _fused(8, 2, 4, 32, 64),
    _fused(8, 2, 4, 64, 96),
    _mbconv(16, 2, 4, 96, 192),
    _mbconv(24, 1, 6, 192, 256),
    _mbconv(32, 2, 6, 256, 512),
    _mbconv(8, 1, 6, 512, 640),
)


def _b_spec(name, width, depth, dropout_rate) -> ModelSpec:
    return ModelSpec(name, _BASE, width, depth, dropout_rate=dropout_rate, normalization="imagenet")


_SPECS = {
    spec.name: spec
    for spec in (
        _b_spec("efficientnetv2-b0", 1.0, 1.0, dropout_rate=0.2),
        _b_spec("efficientnetv2-b1", 1.0, 1.1, dropout_rate=0.2),
        _b_spec("efficientnetv2-b2", 1.1, 1.2, dropout_rate=0.3),
        _b_spec("efficientnetv2-b3", 1.2, 1.4, dropout_rate=0.3),
        ModelSpec("efficientnetv2-s", _SMALL, dropout_rate=0.2),
        ModelSpec("efficientnetv2-m", _MEDIUM, dropout_rate=0.3),
        ModelSpec("efficientnetv2-l", _LARGE, dropout_rate=0.4),
        ModelSpec("efficientnetv2-xl", _XLARGE, dropout_rate=0.4),
    )
}


def list_models() -> list[str]:
    """Returns the names that `get_spec` knows, smallest first."""
    return list(_SPECS)


def get_spec(name: str) -> ModelSpec:
    """Returns a named architecture.

    Raises: UserError for an unknown name, naming the nearest.
    """
    if name not in _SPECS:
        raise UserError(f"unknown model {name!r}{nearest(name, _SPECS)}")
    return _SPECS[name]
