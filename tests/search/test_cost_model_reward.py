"""The reward: the paper's exponents, and that it is relative to the baseline."""

import math

import pytest

from efficientnetv2.search.cost_model import reward

BASELINE = {"baseline_step_seconds": 0.2, "baseline_parameters": 4_000_000}


def test_what_costs_as_the_baseline_is_rewarded_with_its_accuracy():
    assert reward(0.8, 0.2, 4_000_000, **BASELINE) == pytest.approx(0.8)


def test_the_exponents_are_those_of_the_paper():
    assert reward(0.8, 0.4, 4_000_000, **BASELINE) == pytest.approx(0.8 * 2**-0.07)
    assert reward(0.8, 0.2, 8_000_000, **BASELINE) == pytest.approx(0.8 * 2**-0.05)
    assert reward(0.8, 0.4, 1_000_000, w=0, v=-1, **BASELINE) == pytest.approx(3.2)


@pytest.mark.parametrize(
    "values, message",
    [
        ((1.2, 0.2, 4), r"accuracy must be in \[0, 1\], got 1.2"),
        ((math.nan, 0.2, 4), "accuracy must be in"),
        ((0.5, 0.0, 4), "step_seconds must be positive and finite, got 0.0"),
        ((0.5, math.inf, 4), "step_seconds must be positive and finite, got inf"),
        ((0.5, 0.2, 0), "parameters must be positive and finite, got 0"),
    ],
)
def test_figures_that_are_none_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        reward(*values, **BASELINE)
