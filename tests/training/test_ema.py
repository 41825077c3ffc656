"""The moving average of weights and BatchNorm statistics."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_run

from efficientnetv2.network.compat import tf_variable, var_path
from efficientnetv2.training.ema import WeightAverage


@pytest.fixture(scope="module")
def model():
    return tiny_run.make_model()


def numbers(model):
    return [tf_variable(w).numpy() for w in model.weights]


def shift(model, by):
    for weight in model.weights:
        weight.assign(tf_variable(weight) + by)


def test_starts_as_the_weights(model):
    average = WeightAverage(model, 0.99)
    for mine, weight in zip(average.averages, numbers(model), strict=True):
        np.testing.assert_array_equal(mine.numpy(), weight)


@pytest.mark.parametrize("decay", [0.5, 0.9999])
def test_follows_the_official_warm_up(model, decay):
    """decay_t = min(decay, (1 + t) / (10 + t)), t from 1 after the first update."""
    average = WeightAverage(model, decay)
    expected = numbers(model)
    for t in (1, 2, 3, 20):
        shift(model, 0.5)
        average.update(tf.constant(t, tf.int64))
        keep = min(decay, (1 + t) / (10 + t))
        expected = [e * keep + w * (1 - keep) for e, w in zip(expected, numbers(model))]
    for mine, other in zip(average.averages, expected, strict=True):
        np.testing.assert_allclose(mine.numpy(), other, rtol=1e-5, atol=1e-6)


def test_has_the_statistics_of_batch_norm(model):
    average = WeightAverage(model, 0.9)
    assert set(average.by_path) == {var_path(w) for w in model.weights}
    assert "head_bn/moving_variance" in average.by_path
    before = average.by_path["stem_bn/moving_mean"].numpy()
    shift(model, 1.0)
    average.update(tf.constant(1, tf.int64))
    after = average.by_path["stem_bn/moving_mean"].numpy()
    np.testing.assert_allclose(after - before, 9 / 11, rtol=1e-5)


def test_takes_counts_as_they_are():
    """Architectures of keras.applications have a `Normalization`, which counts in whole numbers."""
    inputs = keras.Input((4, 4, 3))
    counting = keras.Model(inputs, keras.layers.Normalization(name="counting")(inputs))
    average = WeightAverage(counting, 0.9)
    for weight in counting.weights:
        tf_variable(weight).assign_add(tf.cast(tf.fill(weight.shape, 11), weight.dtype))
    average.update(tf.constant(1, tf.int64))
    assert average.by_path["counting/count"].numpy() == 11
    np.testing.assert_allclose(average.by_path["counting/mean"].numpy(), 9, rtol=1e-6)
    with average.in_model():
        pass
    assert tf_variable(counting.weights[2]).numpy() == 11


def test_in_model_gives_the_averages_and_then_the_weights_bit_for_bit(model):
    average = WeightAverage(model, 0.9)
    shift(model, 1 / 3)
    own, held = numbers(model), [a.numpy() for a in average.averages]
    with pytest.raises(KeyError), average.in_model():
        for mine, other in zip(numbers(model), held, strict=True):
            np.testing.assert_array_equal(mine, other)
        raise KeyError
    for mine, other in zip(numbers(model), own, strict=True):
        np.testing.assert_array_equal(mine, other)
    for average_now, other in zip(average.averages, held, strict=True):
        np.testing.assert_array_equal(average_now.numpy(), other)


def test_evaluation_uses_the_averages(tmp_path):
    examples = tiny_run.make_examples()
    trainer = tiny_run.make_trainer(tmp_path)
    at_start = trainer.evaluate(examples)
    classifier = trainer.model.get_layer("classifier")
    classifier.bias.assign(tf.range(tiny_run.CLASSES, dtype=tf.float32))
    assert trainer.evaluate(examples) == at_start
    assert trainer.evaluator(examples)["loss"] != at_start["loss"]
    trainer.average.by_path["classifier/bias"].assign(classifier.bias)
    assert trainer.evaluate(examples) == trainer.evaluator(examples)


def test_without_an_average_evaluation_uses_the_weights(tmp_path):
    trainer = tiny_run.make_trainer(tmp_path, tiny_run.make_config("train.ema_decay=0"))
    examples = tiny_run.make_examples()
    assert trainer.average is None
    assert trainer.evaluate(examples) == trainer.evaluator(examples)
