"""The sums of an evaluation step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from efficientnetv2.training.metrics import (
    count_pairs,
    make_eval_step,
    predicted_classes,
    single_label_rows,
)

STRATEGY = tf.distribute.get_strategy()


def cross_entropy(labels, logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return -(labels * (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))).sum(-1)


def logits_model(classes):
    """A model whose logits are its input."""
    inputs = keras.Input((1, 1, classes))
    return keras.Model(inputs, keras.layers.Flatten()(inputs))


@pytest.mark.parametrize("classes", [3, 5, 9])
def test_evaluation_sums_agree_with_numpy(classes):
    rng = np.random.default_rng(classes)
    logits = rng.normal(size=(50, classes)).astype(np.float32)
    target = rng.integers(0, classes, 50)
    label = np.eye(classes, dtype=np.float32)[target]
    weight = (np.arange(50) < 41).astype(np.float32)
    step = make_eval_step(STRATEGY, logits_model(classes))
    features = {"image": tf.constant(logits[:, None, None]), "weight": tf.constant(weight)}
    sums, given = step(features, {"label": tf.constant(label)})
    np.testing.assert_array_equal(given, logits)

    order = (-logits).argsort(-1)
    kept = slice(0, 41)
    expected = [
        cross_entropy(label, logits)[kept].sum(),
        (order[:, :1] == target[:, None]).any(-1)[kept].sum(),
        (order[:, :5] == target[:, None]).any(-1)[kept].sum(),
        41,
    ]
    np.testing.assert_allclose(sums, expected, rtol=1e-5)
    assert classes > 5 or sums[2] == 41


def test_an_example_with_nan_logits_is_no_hit_and_counts():
    logits = np.zeros((4, 8), np.float32)
    logits[:, 2] = 1.0
    logits[0] = np.nan  # All of them,
    logits[1, 2] = np.nan  # only that of the label,
    logits[2, :5] = [np.nan, np.nan, 1, np.nan, np.nan]  # or four others: second to fifth at best.
    label = np.eye(8, dtype=np.float32)[[2, 2, 2, 2]]
    features = {"image": logits[:, None, None], "weight": np.ones(4, np.float32)}
    sums, _ = make_eval_step(STRATEGY, logits_model(8))(features, {"label": label})
    assert np.isnan(sums[0])
    np.testing.assert_array_equal(sums[1:], [1, 2, 4])


def test_rows_that_pad_a_batch_do_not_count_even_if_nan():
    logits = np.array([[2.0, 0.0], [np.nan, np.nan]], np.float32)
    label = np.array([[1.0, 0.0], [0.0, 0.0]], np.float32)
    features = {"image": logits[:, None, None], "weight": np.array([1.0, 0.0], np.float32)}
    sums, _ = make_eval_step(STRATEGY, logits_model(2))(features, {"label": label})
    np.testing.assert_allclose(sums, [np.log1p(np.exp(-2.0)), 1, 1, 1], rtol=1e-5)


def test_what_an_example_is_taken_for_agrees_with_the_hits():
    """Random, tied, not finite: a hit is taken for its class, nothing else is."""
    rng = np.random.default_rng(1)
    values = np.array([0.0, 1.0, 2.0, np.nan, np.inf, -np.inf], np.float32)
    logits = rng.choice(values, (4000, 3), p=[0.25, 0.25, 0.25, 0.1, 0.05, 0.1])
    label = np.eye(3, dtype=np.float32)[rng.integers(0, 3, 4000)]
    predicted = predicted_classes(label, logits).numpy()
    hits = single_label_rows(label, logits)[0].numpy()
    np.testing.assert_array_equal(predicted == label.argmax(-1), hits == 1)
    finite = np.isfinite(logits).all(-1) & (hits == 0)
    assert 500 < finite.sum() < 3000
    np.testing.assert_array_equal(predicted[finite], logits[finite].argmax(-1))


def test_a_logit_that_is_no_number_is_the_largest():
    logits = np.array([[3, np.nan, 2], [np.nan, 1, 5], [1, 1, 0]], np.float32)
    label = np.eye(3, dtype=np.float32)[[0, 0, 1]]
    assert predicted_classes(label, logits).numpy().tolist() == [1, 2, 1]


def test_pairs_are_counted_by_label_and_class():
    label = np.eye(3, dtype=np.float32)[[0, 0, 1, 2, 2]]
    logits = np.eye(3, dtype=np.float32)[[0, 1, 1, 0, 0]]
    counts = count_pairs(label, logits, np.array([1, 1, 1, 1, 0], np.float32))
    assert counts.numpy().tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert counts.dtype == tf.int64
