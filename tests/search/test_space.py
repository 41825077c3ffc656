"""The points of a search space: names, the network of a point and the point of a network."""

import dataclasses
import itertools
import random

import pytest

from efficientnetv2 import build_model
from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams.models import get_spec
from efficientnetv2.hparams.spec import Blocks, ModelSpec
from efficientnetv2.search.space import (
    Backbone,
    SearchSpace,
    StageSlot,
    baseline_spec,
    choices,
    draw,
    load_space,
    size,
    spec_at,
    values_of,
)

PAPER, CIFAR = load_space("paper"), load_space("cifar")
SMALL = SearchSpace(
    "small",
    (
        Backbone(
            "only",
            16,
            64,
            (
                StageSlot(16, 1, (1,), ("fused", "mbconv"), (3,), (1,)),
                StageSlot(24, 2, (1, 2), ("mbconv", "fused"), (3, 5), (4,)),
            ),
            {"stem_stride": 1, "dropout_rate": 0.1},
        ),
    ),
    {"mbconv": (0.0, 0.25), "fused": (0.0,)},
    ("silu", "relu"),
    "efficientnetv2-b0",
)
POINT = {
    "stage1.kind": "fused",
    "stage2.kind": "mbconv",
    "stage2.repeats": 2,
    "stage2.kernel": 5,
    "se.mbconv": 0.25,
    "activation": "relu",
}


def drawn(space, seed):
    chance = random.Random(seed)
    return draw(space, lambda name, options: chance.choice(options))


def test_only_what_is_open_is_a_parameter():
    assert choices(SMALL) == {
        "stage1.kind": ("fused", "mbconv"),
        "stage2.kind": ("mbconv", "fused"),
        "stage2.repeats": (1, 2),
        "stage2.kernel": (3, 5),
        "se.mbconv": (0.0, 0.25),
        "activation": ("silu", "relu"),
    }
    assert size(SMALL) == 2**6
    assert size(CIFAR) == (2 * 3 * 2 * 3) ** 4


def test_the_network_of_a_point():
    rows = (
        Blocks("fused", 1, 3, 1, 1, 16, 16, 0.0),
        Blocks("mbconv", 2, 5, 2, 4, 16, 24, 0.25),
    )
    expected = ModelSpec(
        "p", rows, head_channels=64, dropout_rate=0.1, stem_stride=1, activation="relu"
    )
    assert spec_at(SMALL, POINT, "p") == expected


def test_every_point_is_another_network_and_each_is_found_again():
    options = choices(SMALL)
    specs = set()
    for values in itertools.product(*options.values()):
        point = dict(zip(options, values))
        spec = spec_at(SMALL, point, "p")
        specs.add(spec)
        found = values_of(SMALL, spec)
        shows = "mbconv" in (point["stage1.kind"], point["stage2.kind"])
        assert found == (point if shows else {**point, "se.mbconv": 0.0})
        assert spec_at(SMALL, found, "p") == spec
    # Where both stages are fused, the squeeze-and-excite of MBConv makes no difference.
    assert len(specs) == 2**6 - 2**3


@pytest.mark.parametrize("space", [PAPER, CIFAR], ids=lambda space: space.name)
def test_drawn_points_of_the_named_spaces_are_found_again(space):
    backbones = set()
    for seed in range(50):
        values = drawn(space, seed)
        assert values_of(space, spec_at(space, values, "p")) == values
        backbones.add(values.get("backbone"))
        assert all(value in choices(space)[name] for name, value in values.items())
    assert len(backbones) == len(space.backbones)


@pytest.mark.parametrize("name", ["efficientnetv2-s", "efficientnet-b4"])
def test_s_and_b4_are_points_of_the_papers_space(name):
    spec = get_spec(name)
    values = values_of(PAPER, spec)
    assert values["backbone"] == name
    found = spec_at(PAPER, values, name)
    assert found.scaled_blocks() == spec.scaled_blocks()
    assert found.scaled_channels(found.head_channels) == spec.scaled_channels(spec.head_channels)
    kept = {"blocks", "width_coefficient", "depth_coefficient", "head_channels", "keep_90_percent"}
    for field in dataclasses.fields(ModelSpec):
        if field.name not in kept:
            assert getattr(found, field.name) == getattr(spec, field.name)


def test_the_papers_table_3_is_in_its_space_and_other_networks_are_not():
    for stages in (3, 5, 7):
        values = values_of(PAPER, get_spec(f"efficientnet-b4-fused-1-{stages}"))
        kinds = [values[f"efficientnet-b4.stage{i}.kind"] for i in range(1, 8)]
        assert kinds == ["fused"] * stages + ["mbconv"] * (7 - stages)
    with pytest.raises(UserError, match="the number of rows=7 must be 6 on the backbone"):
        values_of(PAPER, get_spec("efficientnetv2-m"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kernel": 7}, r"blocks\[1\]\.kernel=7 must be 3 or 5 on the backbone only"),
        ({"repeats": 3}, r"blocks\[1\]\.repeats=3 must be 1 or 2"),
        ({"expand": 6}, r"blocks\[1\]\.expand=6 must be 4"),
        ({"channels": 32}, r"blocks\[1\]\.channels=32 must be 24"),
        ({"stride": 1}, r"blocks\[1\]\.stride=1 must be 2"),
        ({"se_ratio": 0.5}, r"blocks\[1\]\.se_ratio=0.5 must be 0.0 or 0.25"),
    ],
)
def test_what_is_no_point_says_which_field(change, message):
    spec = spec_at(SMALL, POINT, "odd-one")
    rows = (spec.blocks[0], dataclasses.replace(spec.blocks[1], **change))
    where = f"^odd-one is no point of the search space small: {message}"
    with pytest.raises(UserError, match=where):
        values_of(SMALL, dataclasses.replace(spec, blocks=rows))


@pytest.mark.parametrize("name", ["efficientnetv2-s", "efficientnet-b4"])
def test_of_several_backbones_the_nearest_one_is_named(name):
    spec = spec_at(PAPER, values_of(PAPER, get_spec(name)), name)
    rows = (dataclasses.replace(spec.blocks[0], kernel=7), *spec.blocks[1:])
    where = rf"blocks\[0\]\.kernel=7 must be 3 or 5 on the backbone {name}$"
    with pytest.raises(UserError, match=where):
        values_of(PAPER, dataclasses.replace(spec, blocks=rows))


@pytest.mark.parametrize(
    "field, value, allowed",
    [
        ("head_channels", 128, 64),
        ("activation", "elu", "silu or relu"),
        ("stem_stride", 2, 1),
        ("norm", "group", "batch"),
        ("dropout_rate", 0.3, 0.1),
    ],
)
def test_constants_belong_to_a_point(field, value, allowed):
    spec = dataclasses.replace(spec_at(SMALL, POINT, "p"), **{field: value})
    with pytest.raises(UserError, match=f": {field}={value} must be {allowed} on the backbone"):
        values_of(SMALL, spec)


def test_squeeze_and_excite_is_the_same_in_all_stages():
    both = {**POINT, "stage1.kind": "mbconv"}
    spec = spec_at(SMALL, both, "p")
    rows = (dataclasses.replace(spec.blocks[0], se_ratio=0.0), spec.blocks[1])
    with pytest.raises(UserError, match=r"se_ratio=0.25 must be as in the stages before"):
        values_of(SMALL, dataclasses.replace(spec, blocks=rows))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"stage2.kernl": 3}, "unknown parameter 'stage2.kernl' of small; did you mean"),
        ({"stage2.kernel": 7}, "stage2.kernel must be one of 3, 5 in small, got 7"),
        ({"stage2.kernel": None}, "stage2.kernel must be one of 3, 5 in small, got None"),
    ],
)
def test_a_bad_point_is_one_line(change, message):
    with pytest.raises(UserError, match=message):
        spec_at(SMALL, {**POINT, **change}, "p")


def test_a_point_needs_every_open_parameter_that_matters():
    for name in POINT:
        rest = {key: value for key, value in POINT.items() if key != name}
        with pytest.raises(UserError, match=f"the search space small needs {name}, one of "):
            spec_at(SMALL, rest, "p")
    values = drawn(PAPER, 0)
    with pytest.raises(UserError, match="needs backbone, one of efficientnetv2-s, efficientnet-b4"):
        spec_at(PAPER, {k: v for k, v in values.items() if k != "backbone"}, "p")


def test_parameters_of_another_backbone_do_not_matter():
    values = values_of(PAPER, get_spec("efficientnetv2-s"))
    more = {**values, "efficientnet-b4.stage1.kind": "fused"}
    assert spec_at(PAPER, more, "s") == spec_at(PAPER, values, "s")


def test_baselines_are_networks():
    assert baseline_spec(PAPER) == get_spec("efficientnet-b4")
    assert values_of(CIFAR, baseline_spec(CIFAR)) == CIFAR.baseline


def test_a_point_builds_and_answers():
    import numpy as np

    spec = spec_at(CIFAR, drawn(CIFAR, 3), "drawn")
    model = build_model(spec, num_classes=10)
    assert model(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 10)
    assert model.name == "drawn"
