"""Parity tells how far a file is from its model, and what is too far."""

import numpy as np
import pytest

from efficientnetv2.export.compare import ExportMismatch, Parity, check, compare

LABELS = np.arange(40) % 4
IMAGES = np.zeros((40, 8, 8, 3), np.float32)
IMAGES[:, 0, 0, 0] = np.arange(40)
RIGHT = Parity(images=100, max_difference=1e-5, agreement=1.0, accuracy=0.8, model_accuracy=0.8)


def model(images):
    """Right of every image but number 39; the best score is 0.7."""
    best = LABELS[images[:, 0, 0, 0].astype(int)]
    best = np.where(images[:, 0, 0, 0] == 39, 0, best)
    return 0.1 + 0.6 * np.eye(4)[best]


def test_equal_answers_are_equal():
    parity = compare(model, model, IMAGES, LABELS)
    assert parity == Parity(40, 0.0, 1.0, accuracy=39 / 40, model_accuracy=39 / 40)
    assert check(parity, "onnx", quantised=False) == []


def test_each_figure_is_what_it_says():
    def classify(images):
        scores = model(images).copy()
        scores[images[:, 0, 0, 0] < 4] = [0.95, 0.05, 0, 0]  # Right of number 0 alone.
        return scores

    parity = compare(classify, model, IMAGES, LABELS)
    assert parity.max_difference == pytest.approx(0.85)
    assert parity.agreement == pytest.approx(37 / 40)
    assert parity.accuracy == pytest.approx(36 / 40)
    assert parity.model_accuracy == pytest.approx(39 / 40)
    assert str(parity) == (
        "scores differ by at most 0.85, same best class for 92.5% of 40 images, "
        "top-1 90.0% (model: 97.5%)"
    )


def test_batches_are_small_and_together_all_images():
    seen = []

    def classify(images):
        seen.append(images[:, 0, 0, 0])
        return model(images)

    compare(classify, model, IMAGES)
    assert max(len(batch) for batch in seen) <= 16
    np.testing.assert_array_equal(np.concatenate(seen), np.arange(40))


def test_without_labels_there_is_no_accuracy():
    parity = compare(model, model, IMAGES)
    assert parity.accuracy is None and parity.model_accuracy is None
    assert "top-1" not in str(parity)
    assert check(parity, "tflite_int8", quantised=True) == []


def test_a_float_format_is_right_or_wrong():
    assert check(changed(max_difference=0.9e-4, agreement=0.5), "onnx", quantised=False) == []
    with pytest.raises(ExportMismatch, match="onnx differs from the model by 0.00011 in a score"):
        check(changed(max_difference=1.1e-4), "onnx", quantised=False)


@pytest.mark.parametrize("quantised", [False, True])
def test_a_score_that_is_not_finite_is_a_mismatch(quantised):
    parity = compare(lambda images: model(images) * np.nan, model, IMAGES)
    with pytest.raises(ExportMismatch, match="not finite"):
        check(parity, "onnx", quantised=quantised)


def test_a_rounded_format_gets_warnings_beyond_its_bounds():
    def lines(**values):
        return check(changed(max_difference=0.4, **values), "tflite_int8", quantised=True)

    assert lines(agreement=0.95, accuracy=0.79) == []
    (line,) = lines(agreement=0.94)
    assert "94.0% of 100 images" in line
    (line,) = lines(accuracy=0.78)
    assert "loses 2.0 points of accuracy on 100 images" in line
    assert len(lines(agreement=0.9, accuracy=0.7)) == 2
    assert lines(accuracy=0.9) == []


def changed(**values):
    return Parity(**{**vars(RIGHT), **values})
