"""The pictures of the worst errors."""

import io

import numpy as np
import pytest
import tiny_run
from PIL import Image

from efficientnetv2.report.evaluate import Mistake, draw_mistakes, overlay


def test_the_overlay_is_where_the_evidence_is():
    image = np.full((8, 8, 3), 100, np.uint8)
    evidence = np.zeros((2, 2), np.float32)
    evidence[0, 0] = 1
    shown = overlay(image, evidence).astype(int)
    changed = np.abs(shown - 100).sum(-1)
    assert shown.shape == (8, 8, 3)
    assert changed[:2, :2].min() > 100
    np.testing.assert_array_equal(changed[6:, 6:], 0)
    np.testing.assert_array_equal(overlay(image, np.zeros((2, 2), np.float32)), image)
    np.testing.assert_array_equal(overlay(image, np.full((2, 2), np.nan, np.float32)), image)


@pytest.mark.parametrize("size", [32, 300])
def test_a_strip_for_each_error(size):
    rng = np.random.default_rng(0)
    images = rng.uniform(-3, 258, (3, size, size, 3)).astype(np.float32)
    mistakes = [
        Mistake(5, images[0], (1,), 2, 0.9),
        Mistake(6, images[1], (), 2, 0.8),
        Mistake(7, images[2], (0, 1), 2, 0.7),
    ]
    strips = draw_mistakes(tiny_run.make_model(), mistakes)
    pictures = [np.asarray(Image.open(io.BytesIO(png))) for png in strips]
    assert [picture.shape for picture in pictures] == [(208, 636, 3)] * 3
    blank = [bool((picture[:, 428:] == 255).all()) for picture in pictures]
    assert blank == [False, True, True]  # Which class is its own, where there are none or two?
    # The image itself comes first, whatever its size.
    small = Image.fromarray(np.clip(np.round(images[0]), 0, 255).astype(np.uint8))
    difference = pictures[0][:, :208].mean() - np.asarray(small).mean()
    assert abs(difference) < 3


def test_no_error_is_no_picture():
    assert draw_mistakes(None, ()) == []
