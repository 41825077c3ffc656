"""Evaluation: every example once, whatever the batch size and the number of replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.training import metrics
from efficientnetv2.training.metrics import Evaluator

COUNT, CLASSES = 13, 7
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (COUNT, 2, 2, 3), dtype=np.uint8)
TARGET = RNG.integers(0, CLASSES, COUNT)
KERNEL = RNG.normal(size=(12, CLASSES)).astype(np.float32) / 100


def make_model():
    inputs = keras.Input((2, 2, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1.0)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(CLASSES)(x))
    model.set_weights([KERNEL, np.zeros(CLASSES, np.float32)])
    return model


def examples(count=COUNT):
    labels = np.eye(CLASSES, dtype=np.float32)[TARGET]
    data = ({"image": PIXELS[:count]}, {"label": labels[:count]})
    return tf.data.Dataset.from_tensor_slices(data)


def expected(count=COUNT):
    logits = PIXELS[:count].reshape(count, -1).astype(np.float32) @ KERNEL
    target = TARGET[:count]
    own = logits[np.arange(count), target]
    rank = (logits > own[:, None]).sum(-1)
    loss = np.log(np.exp(logits).sum(-1)) - own
    return {
        "loss": pytest.approx(loss.mean(), rel=1e-5),
        "top1": pytest.approx((rank < 1).mean()),
        "top5": pytest.approx((rank < 5).mean()),
        "examples": count,
    }


@pytest.mark.parametrize("batch_size", [1, 4, 13, 64])
def test_scores_do_not_depend_on_the_batch_size(batch_size):
    """4 leaves a last batch of one, 64 one batch that is mostly padding."""
    evaluator = Evaluator(tf.distribute.get_strategy(), make_model(), batch_size)
    assert evaluator(examples()) == expected()


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_scores_do_not_depend_on_the_number_of_replicas(batch_size):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = make_model()
    evaluator = Evaluator(strategy, model, batch_size)
    assert evaluator.batch_size % 2 == 0
    assert evaluator(examples()) == expected()


def expected_confusion(count=COUNT):
    logits = PIXELS[:count].reshape(count, -1).astype(np.float32) @ KERNEL
    counts = np.zeros((CLASSES, CLASSES), np.int64)
    np.add.at(counts, (TARGET[:count], logits.argmax(-1)), 1)
    return counts


@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("replicas", [1, 2])
def test_the_confusion_matrix_depends_on_neither(batch_size, replicas):
    """Nor on the evaluation before; 13 examples leave an uneven last batch."""
    strategy = tf.distribute.get_strategy()
    if replicas == 2:
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = make_model()
    evaluator = Evaluator(strategy, model, batch_size, confusion=True)
    for count in (13, 7):
        scores = evaluator(examples(count))
        assert scores == expected(count)
        assert evaluator.confusion.dtype == np.int64
        np.testing.assert_array_equal(evaluator.confusion, expected_confusion(count))
        assert np.trace(evaluator.confusion) / count == pytest.approx(scores["top1"])


def test_a_confusion_matrix_is_asked_for_and_not_too_large(monkeypatch):
    strategy, model = tf.distribute.get_strategy(), make_model()
    assert Evaluator(strategy, model, 4).confusion is None
    assert Evaluator(strategy, model, 4, "sigmoid", True, confusion=True).confusion is None
    monkeypatch.setattr(metrics, "MOST_CLASSES", CLASSES - 1)
    assert Evaluator(strategy, model, 4, confusion=True).confusion is None


@pytest.mark.parametrize("replicas", [1, 2])
def test_who_watches_sees_each_example_once_in_order(replicas):
    strategy = tf.distribute.get_strategy()
    if replicas == 2:
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = make_model()
    seen = []
    Evaluator(strategy, model, 4)(examples(), lambda *batch: seen.append(batch))
    images, labels, logits = (np.concatenate(parts) for parts in zip(*seen))
    np.testing.assert_array_equal(images, PIXELS)
    np.testing.assert_array_equal(labels.argmax(-1), TARGET)
    flat = PIXELS.reshape(COUNT, -1).astype(np.float32)
    np.testing.assert_allclose(logits, flat @ KERNEL, rtol=1e-4, atol=1e-5)


class TestMultiLabel:
    """Any number of labels per example, of which some have none."""

    LABELS = (RNG.uniform(size=(COUNT, CLASSES)) < 0.3).astype(np.float32)
    LABELS[[2, 12]] = 0  # Among them the last example.

    def examples(self, count=COUNT):
        return tf.data.Dataset.from_tensor_slices(
            ({"image": PIXELS[:count]}, {"label": self.LABELS[:count]})
        )

    def expected(self, count=COUNT):
        labels = self.LABELS[:count]
        logits = PIXELS[:count].reshape(count, -1).astype(np.float32) @ KERNEL
        scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
        losses = -np.log(np.where(labels == 1, scores, 1 - scores))
        found = np.take_along_axis(labels, (-logits).argsort(-1), axis=-1)
        some = labels.any(-1)
        curve = keras.metrics.AUC(200, curve="PR")
        curve.update_state(labels, scores.astype(np.float32))
        values = {
            "loss": losses.mean(),
            "hit_at_1": found[some, 0].mean(),
            "hit_at_5": found[some, :5].any(-1).mean(),
            "precision_at_1": found[:, 0].mean(),
            "precision_at_5": found[:, :5].mean(),
            "recall_at_1": found[:, 0].sum() / labels.sum(),
            "recall_at_5": found[:, :5].sum() / labels.sum(),
            "global_ap": float(curve.result()),
        }
        scores = {name: pytest.approx(value, rel=1e-5) for name, value in values.items()}
        return {**scores, "examples": count}

    @pytest.mark.parametrize("batch_size", [1, 4, 13, 64])
    def test_scores_do_not_depend_on_the_batch_size(self, batch_size):
        strategy = tf.distribute.get_strategy()
        evaluator = Evaluator(strategy, make_model(), batch_size, "sigmoid", multi_label=True)
        assert evaluator(self.examples()) == self.expected()

    @pytest.mark.parametrize("batch_size", [1, 3, 4])
    def test_scores_do_not_depend_on_the_number_of_replicas(self, batch_size):
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        with strategy.scope():
            model = make_model()
        evaluator = Evaluator(strategy, model, batch_size, "sigmoid", multi_label=True)
        for count in (13, 7):  # Nothing is left of the evaluation before.
            assert evaluator(self.examples(count)) == self.expected(count)

    def test_the_types_of_the_scores_go_into_json(self):
        strategy = tf.distribute.get_strategy()
        scores = Evaluator(strategy, make_model(), 4, "softmax", True)(self.examples())
        assert [type(value) for value in scores.values()] == [float] * 8 + [int]
        assert np.isfinite(list(scores.values())).all()

    def test_no_label_is_a_user_error(self):
        evaluator = Evaluator(tf.distribute.get_strategy(), make_model(), 4, "sigmoid", True)
        with pytest.raises(UserError, match="no example of the evaluation split has a label"):
            evaluator(self.examples().skip(12))
        with pytest.raises(UserError, match="0 examples"):
            evaluator(self.examples().take(0))


@pytest.mark.parametrize("loss_type, reduced", [("sigmoid", np.mean), ("custom", np.sum)])
def test_the_loss_is_of_the_type_that_was_trained_with(loss_type, reduced):
    """On data with one label per example, too."""
    scores = Evaluator(tf.distribute.get_strategy(), make_model(), 4, loss_type)(examples())
    logits = PIXELS.reshape(COUNT, -1).astype(np.float32) @ KERNEL
    own = np.where(np.eye(CLASSES)[TARGET] == 1, logits, -logits)
    losses = reduced(np.log1p(np.exp(-own)), axis=-1)
    assert scores == {**expected(), "loss": pytest.approx(losses.mean(), rel=1e-5)}


@pytest.mark.parametrize("focal, plain", [("focal", "softmax"), ("sigmoid_focal", "sigmoid")])
def test_the_loss_of_a_focal_one_is_the_plain_one(focal, plain):
    """So that recipes compare, as without smoothing and class weights."""
    strategy, model = tf.distribute.get_strategy(), make_model()
    scores = [Evaluator(strategy, model, 4, loss_type)(examples()) for loss_type in (focal, plain)]
    assert scores[0] == scores[1]


def test_one_evaluator_takes_any_number_of_examples():
    evaluator = Evaluator(tf.distribute.get_strategy(), make_model(), 4)
    for count in (3, 8, 13):
        assert evaluator(examples(count)) == expected(count)
    assert evaluator.step.experimental_get_tracing_count() == 1


def test_the_types_of_the_scores_go_into_json():
    scores = Evaluator(tf.distribute.get_strategy(), make_model(), 4)(examples(3))
    assert [type(value) for value in scores.values()] == [float, float, float, int]


def test_no_example_is_a_user_error():
    evaluator = Evaluator(tf.distribute.get_strategy(), make_model(), 4)
    with pytest.raises(UserError, match="0 examples"):
        evaluator(examples().take(0))
