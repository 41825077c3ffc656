"""How channels and layers are scaled: the tables that result, and larger networks from one."""

import dataclasses
import math

import numpy as np
import pytest

from efficientnetv2 import Blocks, ModelSpec, build_model, get_spec, list_models, scale_spec
from efficientnetv2.common.errors import UserError

# (repeats, channels) of each row after scaling; stem; head. Source: run of the official code.
EXPANDED = {
    "efficientnet-b0": ("1,16 2,24 2,40 3,80 3,112 4,192 1,320", 32, 1280),
    "efficientnet-b1": ("2,16 3,24 3,40 4,80 4,112 5,192 2,320", 32, 1280),
    "efficientnet-b2": ("2,16 3,24 3,48 4,88 4,120 5,208 2,352", 32, 1408),
    # The official code has 16 first; the published weights have 24.
    "efficientnet-b3": ("2,24 3,32 3,48 5,96 5,136 6,232 2,384", 40, 1536),
    "efficientnet-b4": ("2,24 4,32 4,56 6,112 6,160 8,272 2,448", 48, 1792),
    "efficientnet-b5": ("3,24 5,40 5,64 7,128 7,176 9,304 3,512", 48, 2048),
    "efficientnet-b6": ("3,32 6,40 6,72 8,144 8,200 11,344 3,576", 56, 2304),
    "efficientnet-b7": ("4,32 7,48 7,80 10,160 10,224 13,384 4,640", 64, 2560),
    "efficientnet-b8": ("4,32 8,56 8,88 11,176 11,248 15,424 4,704", 72, 2816),
    "efficientnet-l2": ("6,72 11,104 11,176 16,344 16,480 22,824 6,1376", 136, 5504),
    "efficientnetv2-b0": ("1,16 2,32 2,48 3,96 5,112 8,192", 32, 1280),
    "efficientnetv2-b1": ("2,16 3,32 3,48 4,96 6,112 9,192", 32, 1280),
    "efficientnetv2-b2": ("2,16 3,32 3,56 4,104 6,120 10,208", 32, 1408),
    "efficientnetv2-b3": ("2,16 3,40 3,56 5,112 7,136 12,232", 40, 1536),
    "efficientnetv2-s": ("2,24 4,48 4,64 6,128 9,160 15,256", 24, 1280),
    "efficientnetv2-m": ("3,24 5,48 5,80 7,160 14,176 18,304 5,512", 24, 1280),
    "efficientnetv2-l": ("4,32 7,64 7,96 10,192 19,224 25,384 7,640", 32, 1280),
    "efficientnetv2-xl": ("4,32 8,64 8,96 16,192 24,256 32,512 8,640", 32, 1280),
}
TOTALS = {"efficientnet-b7": 55, "efficientnetv2-b3": 32, "efficientnetv2-xl": 100}  # Blocks.


def table(spec):
    """(repeats, channels) of each row, stem and head, as they are built."""
    blocks = iter(spec.scaled_blocks())
    rows = []
    for row in spec.blocks:
        built = [next(blocks) for _ in range(spec.scaled_repeats(row))]
        assert [block.stride for block in built] == [row.stride] + [1] * (len(built) - 1)
        assert {block.channels for block in built[:-1]} <= {built[-1].channels}
        rows.append(f"{len(built)},{built[-1].channels}")
    assert next(blocks, None) is None
    stem = spec.scaled_blocks()[0].channels_in
    return " ".join(rows), stem, spec.scaled_channels(spec.head_channels)


@pytest.mark.parametrize("name", EXPANDED)
def test_the_scaled_rows_are_the_official_ones(name):
    assert table(get_spec(name)) == EXPANDED[name]
    if name in TOTALS:
        assert len(get_spec(name).scaled_blocks()) == TOTALS[name]


def test_blocks_follow_on_each_other():
    for name in list_models():
        blocks = get_spec(name).scaled_blocks()
        for before, block in zip(blocks, blocks[1:]):
            assert block.channels_in == before.channels


def test_only_v1_keeps_nine_tenths_and_only_b3_shows_it():
    """19.2 channels: rounded to 16 they lose more than a tenth."""
    differing = []
    for name in EXPANDED:
        spec = get_spec(name)
        assert spec.keep_90_percent == name.startswith("efficientnet-")
        if table(dataclasses.replace(spec, keep_90_percent=False)) != table(spec):
            differing.append(name)
    assert differing == ["efficientnet-b3"]
    b3 = get_spec("efficientnet-b3")
    assert dataclasses.replace(b3, keep_90_percent=False).scaled_channels(16) == 16


@pytest.mark.parametrize("name", EXPANDED)
def test_a_factor_of_one_gives_the_same_network(name):
    spec = get_spec(name)
    same = scale_spec(spec, "same")
    assert same.scaled_blocks() == spec.scaled_blocks()
    assert table(same) == table(spec)
    assert (same.name, same.width_coefficient, same.depth_coefficient) == ("same", 1, 1)
    kept = ("dropout_rate", "drop_path_rate", "normalization", "keep_90_percent")
    assert all(getattr(same, field) == getattr(spec, field) for field in kept)


def test_width_scales_the_channels_but_not_the_head():
    wide = scale_spec(get_spec("efficientnetv2-s"), "wide", width=1.5)
    assert table(wide) == ("2,40 4,72 4,96 6,192 9,240 15,384", 40, 1280)
    # 24 channels become 36, which is as near to 32 as to 40; the rule takes the larger.


def test_depth_scales_the_layers():
    deep = scale_spec(get_spec("efficientnetv2-s"), "deep", depth=1.5)
    assert table(deep) == ("3,24 6,48 6,64 9,128 14,160 23,256", 24, 1280)


def test_late_depth_adds_layers_where_images_are_small():
    """Factors 1, 1.2, 1.4, 1.6, 1.8, 2 of 2, 4, 4, 6, 9, 15 layers, rounded up."""
    late = scale_spec(get_spec("efficientnetv2-s"), "late", late_depth=2.0)
    assert table(late) == ("2,24 5,48 6,64 10,128 17,160 30,256", 24, 1280)
    early = scale_spec(get_spec("efficientnetv2-s"), "early", depth=2.0, late_depth=1.0)
    # 2, 1.8, 1.6, 1.4, 1.2, 1
    assert table(early) == ("4,24 8,48 7,64 9,128 11,160 15,256", 24, 1280)


def test_scaling_goes_on_from_what_is_built():
    """B3 has coefficients of its own, and V1's rule of rounding."""
    larger = scale_spec(get_spec("efficientnet-b3"), "b3x2", width=2.0, depth=2.0)
    assert table(larger) == ("4,40 6,56 6,96 10,192 10,272 12,464 4,768", 80, 1536)


def test_from_s_towards_m():
    """What agrees with the published M: the stem, the first three rows' layers, two widths, head.

    What does not: it widens all rows evenly, while M keeps the first two and widens the others by
    1.19 to 1.25, and it has no seventh row.
    """
    towards = table(scale_spec(get_spec("efficientnetv2-s"), "towards-m", width=1.1, depth=1.25))
    rows, published = towards[0].split(), EXPANDED["efficientnetv2-m"][0].split()
    assert towards[1:] == EXPANDED["efficientnetv2-m"][1:]
    layers, channels = (
        [[int(x.split(",")[i]) for x in r] for r in (rows, published)] for i in (0, 1)
    )
    assert layers == [[3, 5, 5, 8, 12, 19], [3, 5, 5, 7, 14, 18, 5]]
    assert channels == [[24, 56, 72, 144, 176, 280], [24, 48, 80, 160, 176, 304, 512]]


def test_a_scaled_network_builds_and_is_larger():
    rows = (Blocks("fused", 1, 3, 2, 1, 8, 8), Blocks("mbconv", 2, 3, 2, 4, 8, 16, 0.25))
    base = ModelSpec("base", rows, head_channels=32)
    sizes = []
    for settings in ({}, {"depth": 1.5}, {"depth": 1.5, "width": 2.0}):
        model = build_model(scale_spec(base, "larger", **settings), num_classes=5)
        assert model.name == "larger"
        assert model(np.zeros((1, 16, 16, 3), np.uint8)).shape == (1, 5)
        sizes.append(model.count_params())
    assert sizes[0] < sizes[1] < sizes[2]
    assert sizes[0] == build_model(base, num_classes=5).count_params()


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("key", ["width", "depth", "late_depth"])
def test_a_factor_must_be_positive_and_finite(key, value):
    with pytest.raises(UserError, match=f"^{key} must be a factor above 0, got {value}$"):
        scale_spec(get_spec("efficientnetv2-s"), "x", **{key: value})
