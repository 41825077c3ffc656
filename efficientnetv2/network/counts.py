"""Cost of a network, computed from its specification alone; nothing is built.

The figures equal those of `efficientnetv2.network.profile`, which counts them on the built network;
here they take a millisecond and do not need Keras.
"""

import dataclasses
from collections.abc import Iterator

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams.spec import Blocks, ModelSpec

_IMAGE_CHANNELS = 3
_STEM_KERNEL = 3


@dataclasses.dataclass(frozen=True)
class Counts:
    """Cost of a network for one image; `depthwise_macs` are included in `macs`."""

    params: int  # Including BatchNorm's moving averages.
    trainable_params: int  # The number that papers report.
    macs: int  # Multiply-adds, called FLOPs in papers.
    depthwise_macs: int
    activations: int  # Outputs of convolutions and dense layers.
    layers: int  # Convolutions and dense layers.


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A convolution from `channels_in` to `channels`, or a dense layer (one output position)."""

    channels_in: int
    channels: int
    positions: int = 1  # Of the output: height times width.
    kernel: int = 1
    depthwise: bool = False
    bias: bool = False
    normalised: bool = True

    @property
    def window(self) -> int:
        """The number of weights that contribute to one output."""
        return self.kernel**2 * (1 if self.depthwise else self.channels_in)

    @property
    def outputs(self) -> int:
        return self.positions * self.channels


def count(spec: ModelSpec, image_size: int, num_classes: int = 1000) -> Counts:
    """Returns the cost of a network on images of `image_size` x `image_size` pixels, 3 channels.

    Raises: UserError if `image_size` or `num_classes` is not a positive integer.
    Source: counting rules of arXiv 1905.11946, as in `efficientnetv2.network.profile`.
    """
    for name, value in (("image_size", image_size), ("num_classes", num_classes)):
        if type(value) is not int or value < 1:
            raise UserError(f"{name} must be a positive whole number, got {value!r}")
    layers = list(_layers(spec, image_size, num_classes))
    weights = sum(layer.channels * (layer.window + layer.bias) for layer in layers)
    scales = 2 * sum(layer.channels for layer in layers if layer.normalised)
    averages = scales if spec.norm == "batch" else 0
    macs = [layer.outputs * layer.window for layer in layers]
    return Counts(
        params=weights + scales + averages,
        trainable_params=weights + scales,
        macs=sum(macs),
        depthwise_macs=sum(m for m, layer in zip(macs, layers) if layer.depthwise),
        activations=sum(layer.outputs for layer in layers),
        layers=len(layers),
    )


def _layers(spec: ModelSpec, image_size: int, num_classes: int) -> Iterator[_Layer]:
    blocks = spec.scaled_blocks()
    side = -(-image_size // spec.stem_stride)
    channels = blocks[0].channels_in
    yield _Layer(_IMAGE_CHANNELS, channels, side**2, _STEM_KERNEL)
    for block, (stride, _) in zip(blocks, spec.strides()):
        before, side = side**2, -(-side // stride)
        yield from _block(block, before, side**2)
        channels = block.channels
    head = spec.scaled_channels(spec.head_channels)
    yield _Layer(channels, head, side**2)
    yield _Layer(head, num_classes, bias=True, normalised=False)


def _block(block: Blocks, before: int, after: int) -> Iterator[_Layer]:
    """Yields the layers of a block with `before` input positions and `after` output positions."""
    wide = block.channels_in * block.expand
    if block.kind == "mbconv":
        if block.expand != 1:
            yield _Layer(block.channels_in, wide, before)
        yield _Layer(wide, wide, after, block.kernel, depthwise=True)
        yield from _squeeze_excite(block, wide)
        yield _Layer(wide, block.channels, after)
    elif block.expand != 1:
        yield _Layer(block.channels_in, wide, after, block.kernel)
        yield from _squeeze_excite(block, wide)
        yield _Layer(wide, block.channels, after)
    else:
        yield from _squeeze_excite(block, wide)
        yield _Layer(wide, block.channels, after, block.kernel)


def _squeeze_excite(block: Blocks, wide: int) -> Iterator[_Layer]:
    if block.se_ratio:
        reduced = max(1, int(block.channels_in * block.se_ratio))
        yield _Layer(wide, reduced, bias=True, normalised=False)
        yield _Layer(reduced, wide, bias=True, normalised=False)
