"""What an evaluation counts where an example has any number of labels."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.training.metrics import make_eval_step, multi_label_rows, multi_label_scores

#        best class: 1        3                6           0
LOGITS = [
    [0.0, 9, 1, 2, 3, 4, 5],
    [1.0, 2, 3, 9, 4, 5, 0],
    [1.0, 2, 3, 4, 5, 6, 9],
    [9.0, 8, 7, 6, 5, 4, 3],
]
LABELS = [
    [1, 1, 0, 0, 1, 0, 0],  # The best; of the others one among the five best.
    [0, 0, 0, 0, 1, 0, 1],  # The third, and the last.
    [0, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 1, 0],  # The sixth.
]


def rows(labels, logits):
    found = multi_label_rows(tf.constant(labels, tf.float32), tf.constant(logits, tf.float32))
    return found.numpy()


def test_rows_by_hand():
    expected = [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [2, 1, 0, 0],
        [3, 2, 0, 1],
        [1, 1, 0, 1],
        [5, 5, 5, 5],
        [1, 1, 1, 1],
    ]
    np.testing.assert_array_equal(rows(LABELS, LOGITS), expected)


def test_scores_by_hand():
    """Three of four examples have labels, six in all, of which the best five hold three."""
    assert multi_label_scores(rows(LABELS, LOGITS).sum(-1)) == pytest.approx(
        {
            "hit_at_1": 1 / 3,
            "hit_at_5": 2 / 3,
            "precision_at_1": 1 / 4,
            "precision_at_5": 3 / 20,
            "recall_at_1": 1 / 6,
            "recall_at_5": 3 / 6,
        }
    )


def test_an_example_with_nan_logits_has_no_hit_and_counts():
    logits = np.array(LOGITS, np.float32)
    logits[0, 6] = np.nan
    found = rows(LABELS, logits)[:, 0]
    np.testing.assert_array_equal(found, [0, 0, 0, 3, 1, 5, 1])


def test_with_few_classes_the_best_are_all():
    scores = multi_label_scores(rows([[1, 0, 1], [0, 1, 0]], np.eye(3)[:2]).sum(-1))
    assert scores["precision_at_5"] == pytest.approx(3 / 6)
    assert scores["recall_at_5"] == scores["hit_at_5"] == 1


def test_no_label_at_all_is_a_user_error():
    with pytest.raises(UserError, match="no example of the evaluation split has a label"):
        multi_label_scores(rows(LABELS, LOGITS)[:, 2])


@pytest.mark.parametrize("order, expected", [(1, 1.0), (-1, None)])
def test_the_curve_of_a_perfect_order(order, expected):
    """One that is turned around is as bad as can be."""
    labels = np.array(LABELS, np.float32)
    curve, sums = evaluate(labels, order * (labels * 8 - 4), np.ones(4))
    assert sums.shape == (8,)
    if expected is None:
        assert curve < 0.3
    else:
        assert curve == pytest.approx(expected)


def test_neither_padding_nor_nan_reach_the_curve():
    labels = np.array(LABELS, np.float32)
    logits = np.array(LOGITS, np.float32) - 5
    alone, _ = evaluate(labels[:2], logits[:2], np.ones(2))
    logits[2:] = [[7.0], [np.nan]]
    padded, _ = evaluate(labels, logits, [1, 1, 0, 0])
    assert padded == alone
    # One that is no number is said to have nothing: the labels of the fourth are not found.
    logits[3] = -1e9
    nothing, _ = evaluate(labels, logits, [1, 1, 0, 1])
    logits[3] = np.nan
    broken, sums = evaluate(labels, logits, [1, 1, 0, 1])
    assert broken == nothing < alone
    assert np.isnan(sums[0])
    assert np.isfinite(sums[1:]).all()


def evaluate(labels, logits, weight):
    """The area under the curve and the sums of an evaluation step, with logits for images."""
    inputs = keras.Input((1, 1, 7))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs))
    curve = keras.metrics.AUC(200, curve="PR")
    step = make_eval_step(tf.distribute.get_strategy(), model, "sigmoid", curve)
    image = tf.constant(np.asarray(logits)[:, None, None], tf.float32)
    features = {"image": image, "weight": tf.constant(weight, tf.float32)}
    sums, _ = step(features, {"label": tf.constant(labels)})
    return float(curve.result()), sums.numpy()
