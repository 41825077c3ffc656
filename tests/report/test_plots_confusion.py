"""The confusion matrix as a picture and as a list of pairs."""

import numpy as np
import pytest

from efficientnetv2.common.plots import MOST_NAMED, draw_confusion, figure_png, shortened
from efficientnetv2.report.plots import ConfusedPair, confused_pairs

COUNTS = np.array([[6, 2, 2], [0, 0, 0], [5, 0, 3]], np.int64)


def test_the_pairs_most_confused_come_first():
    assert confused_pairs(COUNTS, 9) == (
        ConfusedPair(2, 0, 5, pytest.approx(5 / 8)),
        ConfusedPair(0, 1, 2, pytest.approx(0.2)),
        ConfusedPair(0, 2, 2, pytest.approx(0.2)),
    )
    assert len(confused_pairs(COUNTS, 2)) == 2
    assert confused_pairs(np.diag([1, 2]), 9) == ()


def test_the_heat_map_shows_shares_of_each_row_and_counts():
    figure = draw_confusion(COUNTS, ("a", "b", "c"))
    axes = figure.axes[0]
    shares = axes.images[0].get_array()
    np.testing.assert_allclose(shares, [[0.6, 0.2, 0.2], [0, 0, 0], [0.625, 0, 0.375]])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b", "c"]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "6", (1, 0): "2", (2, 0): "2", (0, 2): "5", (2, 2): "3"}


def test_many_classes_have_no_room_for_names():
    classes = MOST_NAMED + 1
    figure = draw_confusion(np.eye(classes, dtype=np.int64), [f"name {k}" for k in range(classes)])
    axes = figure.axes[0]
    assert not axes.texts
    assert not any("name" in tick.get_text() for tick in axes.get_yticklabels())
    assert figure_png(figure).startswith(b"\x89PNG")


def test_long_names_are_cut():
    assert shortened("a" * 24) == "a" * 24
    assert shortened("a" * 25) == "a" * 23 + "…"
