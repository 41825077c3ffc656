"""The sums of an evaluation step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from efficientnetv2.training.eval_steps import make_eval_step

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
    sums = step(features, {"label": tf.constant(label)}).numpy()

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
    sums = make_eval_step(STRATEGY, logits_model(8))(features, {"label": label}).numpy()
    assert np.isnan(sums[0])
    np.testing.assert_array_equal(sums[1:], [1, 2, 4])


def test_rows_that_pad_a_batch_do_not_count_even_if_nan():
    logits = np.array([[2.0, 0.0], [np.nan, np.nan]], np.float32)
    label = np.array([[1.0, 0.0], [0.0, 0.0]], np.float32)
    features = {"image": logits[:, None, None], "weight": np.array([1.0, 0.0], np.float32)}
    sums = make_eval_step(STRATEGY, logits_model(2))(features, {"label": label}).numpy()
    np.testing.assert_allclose(sums, [np.log1p(np.exp(-2.0)), 1, 1, 1], rtol=1e-5)
