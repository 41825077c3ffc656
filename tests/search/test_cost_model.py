"""The cost model: what it ranks higher, how it is fitted, and the rank correlation."""

import dataclasses
import random

import numpy as np
import pytest

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams.models import get_spec
from efficientnetv2.search import cost_model
from efficientnetv2.search.cost_model import (
    DEVICES,
    Coefficients,
    Measurement,
    fit,
    held_out,
    predicted_step,
    rank_correlation,
    roofline,
)
from efficientnetv2.search.space import draw, load_space, spec_at

B0, S = get_spec("efficientnetv2-b0"), get_spec("efficientnetv2-s")
TRUE = Coefficients(2e-12, 3e-11, 5e-9, 1e-10, 2e-5)


def points(count, seed=0):
    """Networks of the small space, drawn at random."""
    space, chance = load_space("cifar"), random.Random(seed)
    return [
        spec_at(space, draw(space, lambda name, options: chance.choice(options)), f"point-{i}")
        for i in range(count)
    ]


def measured(specs, coefficients=TRUE, noise=0.0):
    generator = np.random.default_rng(0)
    return [
        Measurement(
            spec,
            size,
            batch,
            predicted_step(spec, size, batch, coefficients) * np.exp(noise * generator.normal()),
        )
        for i, spec in enumerate(specs)
        for size, batch in [((32, 64), (48, 16), (24, 128))[i % 3]]
    ]


def test_the_time_is_the_documented_sum():
    counts = cost_model.count(B0, 64)
    images = 8 * (
        2e-12 * (counts.macs - counts.depthwise_macs)
        + 3e-11 * counts.depthwise_macs
        + 5e-9 * counts.activations
    )
    step = 1e-10 * counts.params + 2e-5 * counts.layers
    assert predicted_step(B0, 64, 8, TRUE) == pytest.approx(images + step, rel=1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_more_of_anything_takes_longer(device):
    coefficients = DEVICES[device]
    small = predicted_step(B0, 128, 8, coefficients)
    assert small < predicted_step(B0, 160, 8, coefficients)
    assert small < predicted_step(B0, 128, 16, coefficients)
    assert small < predicted_step(S, 128, 8, coefficients)
    assert small < predicted_step(B0, 128, 8, coefficients, num_classes=21_843)


def test_fused_blocks_early_are_faster_on_an_accelerator_though_they_compute_more():
    """Paper, Table 3 and section 3.2; on a CPU all fused is slowest."""
    names = ("efficientnet-b4", "efficientnet-b4-fused-1-3", "efficientnet-b4-fused-1-7")
    plain, early, everywhere = map(get_spec, names)
    assert cost_model.count(early, 380).macs > 2 * cost_model.count(plain, 380).macs
    for device in ("v100", "a100", "h100"):
        coefficients = DEVICES[device]
        assert predicted_step(early, 380, 32, coefficients) < 0.8 * predicted_step(
            plain, 380, 32, coefficients
        )
    times = [predicted_step(spec, 380, 32, DEVICES["cpu"]) for spec in (plain, everywhere)]
    assert times[1] > 2 * times[0]


def test_the_speeds_of_the_papers_table_3():
    """Images a second on a V100 of B4 with Fused-MBConv in no stage, 1-3, 1-5, 1-7."""
    names = ["efficientnet-b4", *(f"efficientnet-b4-fused-1-{i}" for i in (3, 5, 7))]
    times = [predicted_step(get_spec(name), 380, 128, DEVICES["v100"]) for name in names]
    rates = [155, 216, 223, 206]
    assert [128 / time for time in times] == pytest.approx(rates, rel=0.1)
    assert rank_correlation(times, [1 / rate for rate in rates]) == pytest.approx(1)


def test_the_cpu_comes_near_what_was_measured_on_two_cores():
    """docs/performance.md: B0 at 192 and S at 128, 29.1 and 18.5 images a second, batch 16."""
    for spec, size, rate in ((B0, 192, 29.1), (S, 128, 18.5)):
        assert 16 / predicted_step(spec, size, 16, DEVICES["cpu"]) == pytest.approx(rate, rel=0.1)


def test_exact_measurements_give_the_coefficients_back():
    specs = [*points(20), B0, S]
    found = fit(measured(specs))
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(TRUE), rel=1e-3)


def test_what_a_device_does_not_spend_stays_zero():
    """Without a cost per layer, and with noise that would make it negative or positive."""
    free = dataclasses.replace(TRUE, per_layer=0.0, per_param=0.0)
    found = fit(measured([*points(20), B0, S], free))
    assert found.per_layer == pytest.approx(0, abs=1e-9)
    assert found.per_mac == pytest.approx(free.per_mac, rel=1e-3)
    noisy = fit(measured([*points(30, seed=1), B0, S], free, noise=0.2))
    assert min(dataclasses.astuple(noisy)) >= 0


def test_few_measurements_are_explained_by_few_coefficients():
    for number in (3, 5, 6, 9):
        found = dataclasses.astuple(fit(measured(points(number), noise=0.3)))
        assert 1 <= sum(value > 0 for value in found) <= number // 3


def test_held_out_predictions_do_not_see_what_they_predict():
    several = measured(points(12))
    strange = dataclasses.replace(several[0], seconds=100 * several[0].seconds)
    predicted = held_out([strange, *several[1:]])
    assert predicted[0] == held_out(several)[0]
    assert predicted[1] != held_out(several)[1]
    exact = held_out(measured([*points(24), B0, S]))
    assert exact == pytest.approx([one.seconds for one in measured([*points(24), B0, S])], rel=0.02)


def test_a_fitted_model_ranks_noisy_measurements():
    several = measured(points(30), noise=0.1)
    assert rank_correlation(held_out(several), [one.seconds for one in several]) > 0.9


@pytest.mark.parametrize(
    "predicted, times, expected",
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3], [1, 4, 9], 1.0),  # Of the ranks, not of the values.
        ([3, 2, 1], [10, 20, 30], -1.0),
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0.8),  # 1 - 6 * 4 / (5 * 24)
        ([1, 1, 2, 3], [1, 2, 3, 4], 0.9486832980505138),  # Ranks 0.5, 0.5, 2, 3; 4.5 / sqrt(22.5)
        ([1, 1, 2, 2], [5, 5, 7, 7], 1.0),
        ([1, 2, 2, 2], [4, 1, 2, 3], -0.7745966692414834),  # Ranks 0, 2, 2, 2; -3 / sqrt(15)
    ],
)
def test_rank_correlation_is_spearmans_with_ties(predicted, times, expected):
    assert rank_correlation(predicted, times) == pytest.approx(expected, rel=1e-12)
    assert rank_correlation(times, predicted) == pytest.approx(expected, rel=1e-12)


def test_what_cannot_be_fitted_or_ranked_is_said():
    several = measured(points(3))
    with pytest.raises(UserError, match="needs at least 3 measured steps, got 2"):
        fit(several[:2])
    broken = [*several, dataclasses.replace(several[0], seconds=0.0)]
    with pytest.raises(UserError, match="must take more than 0 seconds, got 0.0"):
        fit(broken)
    with pytest.raises(UserError, match="two or more pairs, got 1 predictions of 2 measurements"):
        rank_correlation([1.0], [1.0, 2.0])
    with pytest.raises(UserError, match="values that differ"):
        rank_correlation([1.0, 1.0], [1.0, 2.0])
    with pytest.raises(UserError, match="batch_size must be a positive whole number, got 0"):
        predicted_step(B0, 64, 0)
    with pytest.raises(UserError, match="^bytes_per_second must be above 0, got 0$"):
        roofline(1e12, 0, 1e-5)
