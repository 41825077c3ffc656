"""What an evaluation finds out: it agrees with the evaluator, and with NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_run

from efficientnetv2.report import evaluate
from efficientnetv2.report.evaluate import average_precision, evaluate_run
from efficientnetv2.training.metrics import Evaluator

COUNT, CLASSES = 29, 5
RNG = np.random.default_rng(4)
IMAGES = RNG.normal(size=(COUNT, 1, 1, CLASSES)).astype(np.float32)
LOGITS = 3 * IMAGES[:, 0, 0]
TARGET = RNG.integers(0, CLASSES - 1, COUNT)  # The last class has no example.
ONE = np.eye(CLASSES, dtype=np.float32)[TARGET]
SEVERAL = (RNG.uniform(size=(COUNT, CLASSES)) < 0.4).astype(np.float32)
SEVERAL[:, 4] = 0
STRATEGIES = ("one", "two replicas")


def run(labels, settings="", strategy="one", **more):
    """Findings of a model whose logits are three times its input."""
    strategy = (
        tf.distribute.get_strategy()
        if strategy == "one"
        else tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    )
    with strategy.scope():
        inputs = keras.Input((1, 1, CLASSES))
        model = keras.Model(inputs, keras.layers.Rescaling(3.0)(keras.layers.Flatten()(inputs)))
    config = tiny_run.make_config(f"eval.batch_size=4,{settings}")
    dataset = tf.data.Dataset.from_tensor_slices(({"image": IMAGES}, {"label": labels}))
    found = evaluate_run(strategy, model, config, dataset, split="eval", step=3, **more)
    multi_label = config.data.multiclass
    evaluator = Evaluator(strategy, model, 4, config.train.loss_type, multi_label, confusion=True)
    assert found.scores == evaluator(dataset)
    return found, evaluator.confusion


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_accuracy_of_a_class_is_its_share_of_the_diagonal(strategy):
    found, confusion = run(ONE, strategy=strategy)
    np.testing.assert_array_equal(found.confusion, confusion)
    np.testing.assert_array_equal(found.class_counts, confusion.sum(axis=1))
    hits = LOGITS.argmax(-1) == TARGET
    for k in range(CLASSES - 1):
        assert found.class_scores[k] == pytest.approx(hits[k == TARGET].mean())
        assert found.class_scores[k] == pytest.approx(confusion[k, k] / confusion[k].sum())
    assert np.isnan(found.class_scores[4])
    assert (found.split, found.image_size, found.step) == ("eval", 32, 3)


@pytest.mark.parametrize("loss_type", ["softmax", "sigmoid"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_worst_errors_are_the_most_confident(loss_type, strategy):
    settings = f"train.loss_type={loss_type}"
    found, _ = run(
        ONE, settings, strategy, most_errors=6, names_at=lambda at: [f"<{i}>" for i in at]
    )
    scores = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    if loss_type == "sigmoid":
        scores = 1 / (1 + np.exp(-LOGITS))
    predicted = LOGITS.argmax(-1)
    order = [i for i in np.argsort(-scores.max(-1)) if predicted[i] != TARGET[i]]
    assert [one.position for one in found.mistakes] == order[:6]
    for one in found.mistakes:
        np.testing.assert_array_equal(one.image, IMAGES[one.position])
        assert one.labels == (TARGET[one.position],)
        assert one.predicted == predicted[one.position]
        assert one.score == pytest.approx(scores[one.position].max(), rel=1e-5)
        assert one.name == f"<{one.position}>"


def test_all_errors_if_there_are_few():
    wrong = np.flatnonzero(LOGITS.argmax(-1) != TARGET)
    found, _ = run(ONE, most_errors=100)
    assert sorted(one.position for one in found.mistakes) == wrong.tolist()
    perfect = np.eye(CLASSES, dtype=np.float32)[LOGITS.argmax(-1)]
    found, _ = run(perfect, names_at=lambda at: 1 / 0)
    assert found.mistakes == ()


def ranked_precision(labels, scores):
    """By the definition, one example after the other; no two scores are equal."""
    precisions, found = [], 0
    for rank, index in enumerate(np.argsort(-scores), 1):
        if labels[index]:
            found += 1
            precisions.append(found / rank)
    return np.mean(precisions)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_several_labels_have_average_precision_and_no_matrix(strategy):
    found, _ = run(SEVERAL, "data.multiclass=true,train.loss_type=sigmoid", strategy)
    assert found.confusion is None
    np.testing.assert_array_equal(found.class_counts, SEVERAL.sum(0))
    for k in range(CLASSES - 1):
        expected = ranked_precision(SEVERAL[:, k], LOGITS[:, k])
        assert found.class_scores[k] == pytest.approx(expected)
    assert np.isnan(found.class_scores[4])


def test_errors_with_several_labels_are_labels_that_are_not_there():
    found, _ = run(SEVERAL, "data.multiclass=true,train.loss_type=sigmoid", most_errors=4)
    absent = np.where(SEVERAL > 0, -np.inf, LOGITS)
    order = np.argsort(-absent.max(-1))[:4]
    assert [one.position for one in found.mistakes] == order.tolist()
    for one in found.mistakes:
        assert one.predicted == absent[one.position].argmax()
        assert one.labels == tuple(np.flatnonzero(SEVERAL[one.position]))
        assert one.score > 0.5


def test_too_many_scores_are_not_remembered(monkeypatch):
    monkeypatch.setattr(evaluate, "MOST_SCORES", COUNT * CLASSES - 1)
    found, _ = run(SEVERAL, "data.multiclass=true")
    assert np.isnan(found.class_scores).all()
    assert found.class_counts.sum() == SEVERAL.sum()
    monkeypatch.setattr(evaluate, "MOST_SCORES", COUNT * CLASSES)
    assert not np.isnan(run(SEVERAL, "data.multiclass=true")[0].class_scores[0])


def test_examples_of_equal_score_count_together():
    labels = np.array([1, 0, 1, 0], bool)
    assert average_precision(labels, np.zeros(4)) == 0.5
    assert average_precision(labels, np.array([2, 1, 1, 0])) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert average_precision(labels, np.array([4, 1, 3, 0])) == 1
    assert np.isnan(average_precision(np.zeros(4, bool), np.zeros(4)))


def test_scores_that_are_no_number_are_no_confident_errors():
    images = IMAGES.copy()
    images[3] = np.nan
    strategy, inputs = tf.distribute.get_strategy(), keras.Input((1, 1, CLASSES))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs))
    dataset = tf.data.Dataset.from_tensor_slices(({"image": images}, {"label": ONE}))
    config = tiny_run.make_config("eval.batch_size=4")
    found = evaluate_run(strategy, model, config, dataset, split="eval", step=1, most_errors=99)
    assert found.mistakes[-1].position == 3
    assert found.mistakes[-1].score == 0
    assert found.confusion.sum() == COUNT
    assert found.scores["top1"] == np.trace(found.confusion) / COUNT
