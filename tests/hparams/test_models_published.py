"""Published figures: how they are compared, and that every network is what its sources say.

Counted from specifications: tests/network/test_model.py has that each counts as it is built.
"""

import pytest

from efficientnetv2.hparams.models import (
    Figure,
    Published,
    get_spec,
    list_models,
    published_figures,
)
from efficientnetv2.network.counts import count

# Where count and figure disagree, by model and digits; docs/deviations.md has the reasons.
OTHER_PARAMS = {
    ("efficientnetv2-l", "119.5"),
    ("efficientnetv2-l", "120"),
    ("efficientnet-b4-fused-1-3", "20.0"),
    ("efficientnet-b4-fused-1-5", "43.4"),
    ("efficientnet-b4-fused-1-7", "132.0"),
}
OTHER_MACS = {
    ("efficientnetv2-s", "8.8"),
    ("efficientnetv2-l", "53"),
    ("efficientnet-b4", "4.2"),
    ("efficientnet-b5", "9.9"),
    ("efficientnet-b4-fused-1-3", "7.5"),
    ("efficientnet-b4-fused-1-5", "21.3"),
    ("efficientnet-b4-fused-1-7", "34.4"),
}


@pytest.mark.parametrize(
    "digits, count, rounds",
    [
        ("21.5", 21_458_488, True),
        ("21.5", 21_550_000, True),
        ("21.5", 21_560_000, False),
        ("22", 21_500_000, True),
        ("22", 21_458_488, False),
        ("5.30", 5_330_564, False),
    ],
)
def test_a_figure_agrees_with_what_rounds_to_its_digits(digits, count, rounds):
    assert Figure(digits, 10**6).rounds(count) is rounds


def test_multiply_adds_agree_within_three_percent_or_by_rounding():
    published = Published("a source", 224, Figure("5.0", 10**6), Figure("0.4", 10**9))
    assert published.macs_agree(412_000_000)  # 3% of 400 million are 12.
    assert published.macs_agree(449_000_000)  # Rounds to 0.4.
    assert not published.macs_agree(451_000_000)
    assert not published.macs_agree(349_000_000)
    precise = Published("a source", 224, Figure("5.0", 10**6), Figure("8.00", 10**9))
    assert precise.macs_agree(8_230_000_000) and precise.macs_agree(7_770_000_000)
    assert not precise.macs_agree(8_250_000_000) and not precise.macs_agree(7_750_000_000)
    assert Published("a source", 224, Figure("5.0", 10**6), None).macs_agree(1) is None


def test_parameters_agree_if_either_count_rounds():
    published = Published("a source", 384, Figure("22", 10**6), None)
    assert published.params_agree(21_612_360, 21_458_488)
    assert not published.params_agree(21_458_488)


def test_difference_is_relative_to_the_figure():
    assert Figure("8.0", 10**9).difference(8_400_000_000) == pytest.approx(0.05)


def test_every_architecture_has_published_figures():
    assert [name for name in list_models() if not published_figures(name)] == []
    assert published_figures("efficientnetv2-s.json") == ()


@pytest.mark.parametrize("name", list_models())
def test_counts_reproduce_the_published_tables(name):
    for known in published_figures(name):
        counts = count(get_spec(name), known.image_size)
        params = known.params_agree(counts.params, counts.trainable_params)
        assert params is ((name, known.params.digits) not in OTHER_PARAMS), known
        if known.macs:
            macs = known.macs_agree(counts.macs)
            assert macs is ((name, known.macs.digits) not in OTHER_MACS), known
