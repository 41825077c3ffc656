"""What an architecture is: rows of equal blocks, and the rules that scale them.

The named ones are in `architecture_tables.py`; to add one, add a row there.
"""

import dataclasses
import math
from typing import Literal

from hparams.errors import UserError

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


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """All that decides what a network computes, apart from its weights and its classes.

    `normalization` says what pixels in [0, 255] become: "centered" is (x - 128) / 128, "inception"
    (x - 127.5) / 127.5, "imagenet" subtracts the ImageNet mean and divides by its standard
    deviation. `padding` is that of strided convolutions: "same" as TensorFlow has it, or
    "symmetric", kernel // 2 zeros on every side, as PyTorch has it. `norm` is "batch" or "group".
    `output_stride` 8 or 16 replaces later strides by dilation.
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
        """Channels after width scaling, the nearest multiple of 8, at least 8.

        Source: official rule of V2. With `keep_90_percent`, as EfficientNetV1 has it, rounding
        never takes away more than a tenth.
        """
        wanted = channels * self.width_coefficient
        rounded = int(wanted + CHANNEL_DIVISOR / 2) // CHANNEL_DIVISOR * CHANNEL_DIVISOR
        rounded = max(CHANNEL_DIVISOR, rounded)
        if self.keep_90_percent and rounded < 0.9 * wanted:
            rounded += CHANNEL_DIVISOR
        return rounded

    def scaled_repeats(self, row: Blocks) -> int:
        """Blocks of a row after depth scaling. Source: official rule, rounded up."""
        return math.ceil(row.repeats * self.depth_coefficient)

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
            built += [first] + [rest] * (self.scaled_repeats(row) - 1)
        return tuple(built)

    def strides(self) -> list[tuple[int, int]]:
        """Stride and dilation of each block that is built.

        Once the output stride is reached, a block that would stride does not, and those after it
        are dilated instead, so that each sees the pixels that its weights were trained on.
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

    With `late_depth` the factor of the layers grows evenly from `depth` in the first row to
    `late_depth` in the last, so that layers are added where the images are small.
    Raises: UserError if a factor is not positive and finite.
    Source: paper section 3.3, "scaling": compound scaling, and more layers in later stages; the
    paper gives no formula, and its M and L were rounded by hand and got a seventh stage. Channels
    and layers are rounded as everywhere; the head keeps its channels, as in the paper's models.
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
