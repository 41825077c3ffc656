"""Growing a network: to M's and L's size, to any parameters, and to a measured step time."""

import dataclasses

import pytest

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams.models import get_spec, published_figures
from efficientnetv2.hparams.spec import Blocks, ModelSpec
from efficientnetv2.network.counts import count
from efficientnetv2.search.cost_model import DEVICES, predicted_step
from efficientnetv2.search.scaling import (
    Scaled,
    grow,
    published_near,
    rows_table,
    to_parameters,
    to_step_seconds,
)

S = Scaled(get_spec("efficientnetv2-s"), 384, 300)
BATCH = 32


@pytest.mark.parametrize("name", ["efficientnetv2-m", "efficientnetv2-l"])
def test_from_s_the_sizes_of_m_and_l_are_reached(name):
    """Within 15% of each published figure of parameters, and of FLOPs at 480 pixels."""
    for known in published_figures(name):
        grown = to_parameters(S, known.params.value)
        assert grown.eval_size == known.image_size == 480
        assert abs(known.params.difference(grown.counts.trainable_params)) < 0.02
        assert abs(known.macs.difference(grown.counts.macs)) < 0.15


def test_one_and_two_units_are_about_m_and_l():
    for phi, name in ((1, "efficientnetv2-m"), (2, "efficientnetv2-l")):
        grown = grow(S, phi, "x")
        ratio = grown.counts.trainable_params / count(get_spec(name), 480).trainable_params
        assert 0.85 < ratio < 1.15


def test_no_growth_is_the_same_network():
    same = grow(S, 0.0, "efficientnetv2-s")
    assert (same.spec, same.eval_size, same.train_size) == (S.spec, 384, 300)


def test_later_stages_grow_deeper_and_the_first_stays():
    grown = grow(S, 2.0, "x")
    factors = [
        row.repeats / before.repeats for row, before in zip(grown.spec.blocks, S.spec.blocks)
    ]
    assert factors[0] == 1
    assert factors == sorted(factors)
    assert factors[-1] == pytest.approx(1.9**2, abs=0.1)
    widths = [
        row.channels / before.channels for row, before in zip(grown.spec.blocks, S.spec.blocks)
    ]
    assert widths == pytest.approx([1.14**2] * 6, abs=0.1)
    assert grown.spec.head_channels == S.spec.head_channels


@pytest.mark.parametrize(
    "sizes, phi, expected",
    [
        ((384, 300), 0.5, (432, 336)),  # Times 1.118
        ((384, 300), 1.0, (480, 376)),
        ((384, 300), 3.0, (480, 376)),  # At most 480, and training in proportion.
        ((32, 32), 1.0, (40, 40)),
        ((600, 480), 2.0, (600, 480)),  # Was above before.
    ],
)
def test_images_grow_up_to_480_pixels(sizes, phi, expected):
    grown = grow(Scaled(S.spec, *sizes), phi, "x")
    assert (grown.eval_size, grown.train_size) == expected


@pytest.mark.parametrize("factor", [1.0, 1.3, 2.0, 10.0])
@pytest.mark.parametrize("model", ["efficientnetv2-s", "efficientnetv2-b0", "efficientnet-b4"])
def test_any_target_is_met_as_near_as_rounding_allows(model, factor):
    source = Scaled(get_spec(model), 224, 192)
    target = factor * source.counts.trainable_params
    grown = to_parameters(source, target)
    assert grown.counts.trainable_params == pytest.approx(target, rel=0.06)
    if factor == 1:
        assert grown.spec.scaled_blocks() == source.spec.scaled_blocks()
    millions = grown.counts.trainable_params / 1e6
    assert grown.spec.name.startswith(f"{model}-")
    assert float(grown.spec.name.removeprefix(f"{model}-")[:-1]) == pytest.approx(
        millions, rel=0.01
    )


def test_what_cannot_be_reached_is_said():
    with pytest.raises(UserError, match="^scaling only grows: parameters must be a number from 21"):
        to_parameters(S, 5e6)
    with pytest.raises(UserError, match="of efficientnetv2-s, got nan"):
        to_parameters(S, float("nan"))
    with pytest.raises(UserError, match="got inf"):
        to_parameters(S, float("inf"))
    with pytest.raises(UserError, match="blocks are too many; at most 1000 are built"):
        to_parameters(S, 1e13)


class Device:
    """Measures by a rule instead of a clock, and remembers what it was asked."""

    def __init__(self, rule):
        self.rule, self.asked = rule, []

    def __call__(self, spec, image_size):
        self.asked.append((spec.blocks, image_size))
        return self.rule(spec, image_size)


def by_cost_model(spec, image_size):
    return predicted_step(spec, image_size, BATCH, DEVICES["cpu"])


DEVICES_BY_RULE = {
    "as the cost model": by_cost_model,
    "twice as slow": lambda spec, size: 2 * by_cost_model(spec, size),
    "of another kind": lambda spec, size: 1e-11 * count(spec, size).params * size,
    "mostly idle": lambda spec, size: 5.0 + 0.1 * by_cost_model(spec, size),
}


@pytest.mark.parametrize("rule", DEVICES_BY_RULE)
@pytest.mark.parametrize("factor", [1.5, 4.0])
def test_a_step_time_is_met_in_a_few_measurements(rule, factor):
    device = Device(DEVICES_BY_RULE[rule])
    first = device.rule(S.spec, 300)
    told = []
    grown, took = to_step_seconds(
        S, factor * first, device, BATCH, told=lambda *one: told.append(one)
    )
    assert took == pytest.approx(factor * first, rel=0.08)
    assert took == device.rule(grown.spec, grown.train_size)
    assert len(device.asked) == len(set(device.asked)) == len(told) <= 6
    assert device.asked[0] == (grow(S, 0, "x").spec.blocks, 300)
    assert grown.spec.name.startswith("efficientnetv2-s-") and grown.spec.name.endswith("ms")


def test_a_good_cost_model_saves_measurements():
    device = Device(by_cost_model)
    to_step_seconds(S, 2 * by_cost_model(S.spec, 300), device, BATCH, coefficients=DEVICES["cpu"])
    assert len(device.asked) == 2


def test_a_step_time_between_two_networks_ends_with_the_nearer():
    """Measured times that jump, so that none is near the target."""
    small = count(S.spec, 300).params
    device = Device(lambda spec, size: 1.0 if count(spec, size).params < 2 * small else 10.0)
    grown, took = to_step_seconds(S, 4.0, device, BATCH)
    assert took == 1.0
    assert len(device.asked) == len(set(device.asked)) <= 6


def test_no_network_is_measured_twice():
    """From 32 pixels the next size is 40; nothing lies between, and 40 is nearer."""
    tiny = Scaled(ModelSpec("tiny", (Blocks("fused", 1, 3, 1, 1, 8, 8),), head_channels=8), 32, 32)
    device = Device(by_cost_model)
    target = 1.2 * by_cost_model(tiny.spec, 32)
    coefficients = DEVICES["cpu"]
    grown, took = to_step_seconds(tiny, target, device, BATCH, coefficients=coefficients)
    assert [size for _, size in device.asked] == [32, 40]
    assert (grown.train_size, took) == (40, by_cost_model(tiny.spec, 40))


def test_a_step_time_that_cannot_be_is_said():
    with pytest.raises(UserError, match="must take a number of milliseconds from 2000, as eff"):
        to_step_seconds(S, 1.0, lambda spec, size: 2.0, BATCH)
    with pytest.raises(UserError, match="must take more than 0 seconds, got 0"):
        to_step_seconds(S, 1.0, lambda spec, size: 0.0, BATCH)


def test_the_table_says_where_the_published_network_differs():
    grown = to_parameters(S, 54.1e6)
    [near] = published_near(grown)
    assert near.name == "efficientnetv2-m"
    assert near.known.params.digits == "54.1"
    table = rows_table(S, grown, [near]).splitlines()
    assert table[0].split() == ["stage", "efficientnetv2-s", grown.spec.name, "efficientnetv2-m"]
    assert table[3].split("  ")[-1].strip() == "F3 e4: 80 x 5"
    seventh = table[7].split()
    assert seventh[:3] == ["7", "-", "-"]
    assert " ".join(seventh[3:]) == "M3 e6: 512 x 5"


def test_published_figures_stand_only_beside_networks_of_their_size():
    assert [one.name for one in published_near(S)] == [
        "efficientnetv2-s",
        "efficientnetv2-s-arxiv-v1",
    ]
    assert published_near(grow(S, 0.5, "x")) == ()
    small = dataclasses.replace(grow(S, 1.08, "x"), eval_size=240)
    [record] = [one.record(small) for one in published_near(small)]
    assert record["image_size"] == 480
    assert abs(record["macs_difference"]) < 0.15  # At the published size, not at 240.
