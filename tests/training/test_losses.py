"""The losses, by numbers worked out by hand, and the weights of classes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams.config import LOSS_TYPES
from efficientnetv2.training.losses import (
    activation_of,
    class_weights_of,
    make_loss,
    sigmoid_terms,
    softmax_loss,
)

LN2, LN3 = np.log(2.0), np.log(3.0)
# Softmax of these is 1/2, 1/4, 1/4; the sigmoid of LN3 is 3/4.
LOGITS = [LN2, 0.0, 0.0]


def losses_of(loss, labels, logits):
    return loss(tf.constant(labels, tf.float32), tf.constant(logits, tf.float32)).numpy()


def with_gradient(loss, labels, logits):
    """The losses, and the gradient of their sum by the logits."""
    logits = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = loss(tf.constant(labels, tf.float32), logits)
    return losses.numpy(), tape.gradient(losses, logits).numpy()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_moves_a_share_of_the_labels_to_all_classes(smoothing):
    rng = np.random.default_rng(0)
    labels = rng.dirichlet(np.ones(5), 7)
    logits = rng.normal(size=(7, 5)) * 5
    found = losses_of(make_loss("softmax", smoothing=smoothing), labels, logits)
    smoothed = labels * (1 - smoothing) + smoothing / 5
    expected = -(smoothed * (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "labels, smoothing, expected",
    [
        ([1, 0, 0], 0.0, LN2),
        ([1, 1, 0], 0.0, 1.5 * LN2),  # Half of LN2, half of 2 LN2.
        ([0.5, 0.5, 0], 0.0, 1.5 * LN2),
        ([1, 1, 0], 0.3, 1.55 * LN2),  # 0.45, 0.45, 0.1
        ([0, 0, 0], 0.3, 0.0),
    ],
)
def test_softmax_by_hand(labels, smoothing, expected):
    loss = make_loss("softmax", smoothing=smoothing, multi_label=True)
    np.testing.assert_allclose(losses_of(loss, [labels], [LOGITS]), [expected], rtol=1e-6)


def test_an_example_without_labels_has_no_gradient_and_spoils_no_other():
    labels = [[0, 0, 0], [1, 1, 0]]
    loss = make_loss("softmax", smoothing=0.1, multi_label=True)
    losses, gradient = with_gradient(loss, labels, [LOGITS, LOGITS])
    _, alone = with_gradient(loss, labels[1:], [LOGITS])
    assert losses[0] == 0
    assert not gradient[0].any()
    np.testing.assert_array_equal(gradient[1], alone[0])


def test_the_gradient_of_softmax_is_that_of_the_shares():
    _, gradient = with_gradient(make_loss("softmax"), [[1, 1, 0]], [LOGITS])
    np.testing.assert_allclose(gradient, [[0.5 - 0.5, 0.25 - 0.5, 0.25]], atol=1e-6)


SIGMOID = [  # of [LN3, 0] and labels [1, 0], per term: -ln(3/4) and -ln(1/2)
    (0.0, [np.log(4 / 3), LN2]),
    # Targets 0.9 and 0.1.
    (0.2, [0.9 * np.log(4 / 3) + 0.1 * np.log(4), LN2]),
]


@pytest.mark.parametrize("smoothing, terms", SIGMOID)
def test_sigmoid_by_hand(smoothing, terms):
    found = losses_of(make_loss("sigmoid", smoothing=smoothing), [[1, 0]], [[LN3, 0]])
    np.testing.assert_allclose(found, [np.mean(terms)], rtol=1e-6)
    custom = losses_of(make_loss("custom", smoothing=smoothing), [[1, 0]], [[LN3, 0]])
    np.testing.assert_allclose(custom, [np.sum(SIGMOID[0][1])], rtol=1e-6)  # Never smoothed.


@pytest.mark.parametrize("loss_type, terms", [("sigmoid", 3), ("custom", 1)])
def test_an_example_without_labels_has_none_of_the_classes(loss_type, terms):
    found = losses_of(make_loss(loss_type, multi_label=True), [[0, 0, 0]], [[LN3, 0, 0]])
    np.testing.assert_allclose(found, [(np.log(4) + 2 * LN2) / terms], rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sigmoid_terms_agree_with_tensorflow_and_are_stable(smoothing):
    rng = np.random.default_rng(0)
    labels = tf.constant(rng.integers(0, 2, (6, 5)), tf.float32)
    for scale in (1.0, 1e4):
        logits = tf.constant(rng.normal(size=(6, 5)) * scale, tf.float32)
        smoothed = labels * (1 - smoothing) + smoothing / 2
        expected = tf.nn.sigmoid_cross_entropy_with_logits(labels=smoothed, logits=logits)
        found = sigmoid_terms(labels, logits, smoothing)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 3.0)])
def test_what_is_no_number_stays_so_and_in_its_example(loss_type, weights):
    """A run ends at such a loss: it must not be taken for an example without labels."""
    labels = [[np.nan, 0, 0], [1, 0, 0], [1, 0, 0]]
    logits = [LOGITS, [np.nan, 0, 0], LOGITS]
    for multi_label in (False, True):
        loss = make_loss(loss_type, class_weights=weights, multi_label=multi_label)
        found = losses_of(loss, labels, logits)
        np.testing.assert_array_equal(np.isnan(found), [True, True, False])


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_class_weight_multiplies_the_loss_of_its_examples(loss_type):
    labels, logits = np.eye(3), np.random.default_rng(0).normal(size=(3, 3))
    plain = losses_of(make_loss(loss_type, smoothing=0.1), labels, logits)
    loss = make_loss(loss_type, smoothing=0.1, class_weights=(0.5, 1, 4))
    np.testing.assert_allclose(losses_of(loss, labels, logits), plain * [0.5, 1, 4], rtol=1e-6)


def test_mixup_blends_weights_by_the_labels_before_smoothing():
    """As if both were there, each with its weight: 0.75 * 0.5 + 0.25 * 4 = 1.375."""
    labels, logits = [[0.75, 0, 0.25]], [[1.0, -1, 2]]
    plain = losses_of(make_loss("softmax", smoothing=0.3), labels, logits)
    loss = make_loss("softmax", smoothing=0.3, class_weights=(0.5, 1, 4))
    np.testing.assert_allclose(losses_of(loss, labels, logits), plain * 1.375, rtol=1e-6)


def test_softmax_of_several_labels_weighs_by_their_shares():
    loss = make_loss("softmax", class_weights=(0.5, 4, 1), multi_label=True)
    found = losses_of(loss, [[1, 1, 0], [0, 0, 0]], [LOGITS, LOGITS])
    np.testing.assert_allclose(found, [1.5 * LN2 * 2.25, 0], rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_is_that_of_keras(gamma, smoothing):
    rng = np.random.default_rng(0)
    labels, logits = rng.dirichlet(np.ones(5), 7), rng.normal(size=(7, 5)) * 3
    keras_loss = keras.losses.CategoricalFocalCrossentropy(
        alpha=1.0, gamma=gamma, from_logits=True, label_smoothing=smoothing, reduction="none"
    )
    found = losses_of(make_loss("focal", smoothing=smoothing, focal_gamma=gamma), labels, logits)
    expected = losses_of(keras_loss, labels, logits)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_focal_by_hand():
    """Scores 1/2, 1/4, 1/4; of the sigmoid 3/4 and 1/2."""
    found = losses_of(make_loss("focal", focal_gamma=2.0), [[1, 0, 0]], [LOGITS])
    np.testing.assert_allclose(found, [0.25 * LN2], rtol=1e-6)
    loss = make_loss("sigmoid_focal", focal_gamma=2.0)
    terms = [0.25**2 * np.log(4 / 3), 0.5**2 * LN2]
    np.testing.assert_allclose(losses_of(loss, [[1, 0]], [[LN3, 0]]), [np.mean(terms)], rtol=1e-6)
    absent = [0.75**2 * np.log(4), 0.5**2 * LN2]
    np.testing.assert_allclose(losses_of(loss, [[0, 1]], [[LN3, 0]]), [np.mean(absent)], rtol=1e-6)


def test_sigmoid_focal_is_that_of_keras():
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 2, (6, 5)), rng.normal(size=(6, 5)) * 3
    keras_loss = keras.losses.BinaryFocalCrossentropy(
        gamma=1.5, from_logits=True, label_smoothing=0.0, reduction="none"
    )
    found = losses_of(make_loss("sigmoid_focal", focal_gamma=1.5), labels, logits)
    np.testing.assert_allclose(found, losses_of(keras_loss, labels, logits), rtol=1e-4)


@pytest.mark.parametrize("focal, plain", [("focal", "softmax"), ("sigmoid_focal", "sigmoid")])
@pytest.mark.parametrize("multi_label", [False, True])
def test_focal_without_gamma_is_the_plain_loss(focal, plain, multi_label):
    labels, logits = [[1, 0, 0.5], [0, 0, 0]], [LOGITS, [1, 2, 30]]
    settings = {"smoothing": 0.1, "class_weights": (0.5, 1, 4), "multi_label": multi_label}
    found = losses_of(make_loss(focal, focal_gamma=0.0, **settings), labels, logits)
    np.testing.assert_array_equal(found, losses_of(make_loss(plain, **settings), labels, logits))
    other = losses_of(make_loss(focal, focal_gamma=2.0, **settings), labels, logits)
    assert (other[0] < found[0]).all()


@pytest.mark.parametrize("loss_type", ["focal", "sigmoid_focal"])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_has_a_finite_gradient_where_the_score_is_sure(loss_type, gamma):
    loss = make_loss(loss_type, focal_gamma=gamma)
    for logits in ([[200.0, 0, 0]], [[-200.0, 0, 0]]):
        losses, gradient = with_gradient(loss, [[1, 0, 0]], logits)
        assert np.isfinite(losses).all()
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("loss_type, terms", [("sigmoid", 2), ("custom", 1)])
def test_class_weights_count_the_labels_that_are_there(loss_type, terms):
    """Terms of [LN3, 0]: there ln(4/3) and ln 2, absent ln 4 and ln 2."""
    loss = make_loss(loss_type, class_weights=(5, 0.5), multi_label=True)
    labels = [[1, 1], [1, 0], [0, 0], [0.5, 0]]
    found = losses_of(loss, labels, [[LN3, 0]] * 4)
    expected = [
        5 * np.log(4 / 3) + 0.5 * LN2,
        5 * np.log(4 / 3) + LN2,
        np.log(4) + LN2,
        0.5 * 5 * np.log(4 / 3) + 0.5 * np.log(4) + LN2,
    ]
    np.testing.assert_allclose(found, np.array(expected) / terms, rtol=1e-6)


def test_smoothing_does_not_make_a_rare_class_the_better_guess():
    """The weight belongs to the examples that have the class, not to smoothing's share of it."""
    logits = [[-4.0], [0.0], [4.0]]
    plain = losses_of(make_loss("sigmoid", smoothing=0.1), np.zeros((3, 1)), logits)
    loss = make_loss("sigmoid", smoothing=0.1, class_weights=(100,), multi_label=True)
    np.testing.assert_allclose(losses_of(loss, np.zeros((3, 1)), logits), plain, rtol=1e-6)
    np.testing.assert_allclose(
        losses_of(loss, np.ones((3, 1)), logits),
        100 * losses_of(make_loss("sigmoid", smoothing=0.1), np.ones((3, 1)), logits),
        rtol=1e-6,
    )


def test_class_weights_even_out_the_classes():
    counts = (10, 30, 80)
    weights = class_weights_of(counts, ("a", "b", "c"))
    assert weights == pytest.approx((4.0, 4 / 3, 0.5))  # 120 / (3 * n_c)
    assert np.multiply(weights, counts) == pytest.approx([40] * 3)
    assert np.average(weights, weights=counts) == pytest.approx(1)
    assert class_weights_of((7, 7), ("a", "b")) == (1, 1)


def test_a_class_without_examples_has_no_weight():
    with pytest.raises(UserError, match="^class 'hen' has no training example.*class_balance"):
        class_weights_of((3, 0, 2), ("cat", "hen", "dog"))


def test_each_loss_has_its_activation():
    assert {name: activation_of(name) for name in LOSS_TYPES} == {
        "softmax": "softmax",
        "sigmoid": "sigmoid",
        "custom": "sigmoid",
        "focal": "softmax",
        "sigmoid_focal": "sigmoid",
    }


def test_softmax_loss_runs_in_a_graph():
    graph = tf.function(lambda labels, logits: softmax_loss(labels, logits, 0.1))
    labels, logits = tf.constant([[1.0, 0, 1]]), tf.constant([LOGITS], tf.float32)
    np.testing.assert_array_equal(graph(labels, logits), softmax_loss(labels, logits, 0.1))
