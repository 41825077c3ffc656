"""The official RMSProp against a reference in numpy."""

import numpy as np
import pytest
import tensorflow as tf
import tiny_run

from efficientnetv2.common.errors import UserError
from efficientnetv2.network.compat import KERAS3, tf_variable
from efficientnetv2.training.checkpoint import RunCheckpoint
from efficientnetv2.training.optimizer import OPTIMIZERS, OfficialRMSprop, make_optimizer

RATES = (0.1, 0.05, 0.2, 0.01)


class Reference:
    """RMSProp of TF1: the mean of squares starts at one, epsilon is inside the root."""

    def __init__(self, weight, momentum=0.9):
        self.weight, self.mean_square = weight, np.ones_like(weight)
        self.momentum, self.decay = np.zeros_like(weight), momentum

    def step(self, rate, gradient):
        self.mean_square = 0.9 * self.mean_square + 0.1 * gradient**2
        scaled = gradient / np.sqrt(self.mean_square + 1e-3)
        self.momentum = self.decay * self.momentum + rate * scaled
        self.weight = self.weight - self.momentum


def make_gradients(steps, seed=0):
    return np.random.default_rng(seed).normal(size=(steps, 5, 3)).astype(np.float32)


def states(optimizer):
    return [tf_variable(v).numpy() for v in optimizer.variables]


def named(optimizer):
    return {str(i): tf_variable(v) for i, v in enumerate(optimizer.variables)}


def test_the_mean_of_squares_starts_at_one_and_the_momentum_at_zero():
    optimizer, model = OfficialRMSprop(), tiny_run.make_model()
    optimizer.build(model.trainable_variables)
    squares = [tf_variable(v).numpy() for v in optimizer._velocities]
    assert len(squares) == len(model.trainable_variables)
    assert all((square == 1).all() for square in squares)
    assert all((tf_variable(v).numpy() == 0).all() for v in optimizer._momentums)


@pytest.mark.parametrize(("traced", "momentum"), [(True, 0.9), (False, 0.9), (True, 0.0)])
def test_updates_agree_with_the_reference(traced, momentum):
    """Eagerly, Keras 2 builds the optimizer again at each update."""
    start = np.random.default_rng(9).normal(size=(5, 3)).astype(np.float32)
    weight, reference = tf.Variable(start), Reference(start, momentum)
    optimizer = OfficialRMSprop(momentum=momentum)

    def apply(gradient):
        optimizer.apply_gradients([(gradient, weight)])

    apply = tf.function(apply) if traced else apply
    optimizer.build([weight])
    for rate, gradient in zip(RATES, make_gradients(len(RATES))):
        optimizer.learning_rate = rate
        apply(tf.constant(gradient))
        reference.step(np.float32(rate), gradient)
        np.testing.assert_allclose(weight.numpy(), reference.weight, rtol=1e-5, atol=1e-6)


def test_the_first_update_is_small_where_the_gradient_is():
    """With a start at zero it would be rate / sqrt(0.1), whatever the gradient."""
    weight, optimizer = tf.Variable([0.0]), OfficialRMSprop(0.1)
    optimizer.apply_gradients([(tf.constant([0.01]), weight)])
    np.testing.assert_allclose(weight.numpy(), [-0.1 * 0.01 / np.sqrt(0.901)], rtol=1e-3)


def test_a_restored_state_is_not_set_to_one_again(tmp_path):
    model, optimizer = tiny_run.make_model(), OfficialRMSprop()
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    pairs = [
        (tf.constant(rng.normal(size=w.shape), tf.float32), w) for w in model.trainable_variables
    ]
    optimizer.apply_gradients(pairs)
    RunCheckpoint(str(tmp_path), model, named(optimizer), None, keep=1).save(1)
    expected_states = states(optimizer)

    again, restored = tiny_run.make_model(), OfficialRMSprop()
    restored.build(again.trainable_variables)
    assert RunCheckpoint(str(tmp_path), again, named(restored), None, keep=1).restore() == 1
    for mine, theirs in zip(states(restored), expected_states, strict=True):
        np.testing.assert_array_equal(mine, theirs)

    optimizer.apply_gradients(pairs)
    gradients = [gradient for gradient, _ in pairs]
    restored.apply_gradients(zip(gradients, again.trainable_variables))  # Builds again on Keras 2.
    for mine, theirs in zip(states(restored), states(optimizer), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for mine, theirs in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(tf_variable(mine).numpy(), tf_variable(theirs).numpy())


def test_comes_back_from_its_config():
    optimizer = OfficialRMSprop(learning_rate=0.02, rho=0.8, momentum=0.7, epsilon=0.01)
    again = OfficialRMSprop.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()
    assert (again.rho, again.momentum, again.epsilon) == (0.8, 0.7, 0.01)


ADDONS_ONLY = {"lazyadam", "radam", "novograd", "yogi", "adabelief"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_name_makes_an_optimizer_or_says_what_it_needs(name):
    """Warnings are errors here: that of tensorflow-addons at its import is not shown."""
    if name in ADDONS_ONLY and KERAS3:
        message = f"^train.optimizer={name} needs tensorflow-addons, .* Python 3.11 .*=adam"
    elif name == "nadam" and not KERAS3:
        message = "^train.optimizer=nadam needs Keras 3 .*; use train.optimizer=adam$"
    else:
        optimizer = make_optimizer(name, 0.7)
        momentum = {"rmsprop": 0.7, "momentum": 0.7, "nesterov": 0.7, "sgd": 0.0}
        if name in momentum:
            assert optimizer.momentum == momentum[name]
            assert getattr(optimizer, "nesterov", False) == (name == "nesterov")
        return
    with pytest.raises(UserError, match=message):
        make_optimizer(name, 0.7)


def test_an_unknown_name_is_answered_by_the_nearest():
    with pytest.raises(UserError, match="^unknown train.optimizer=rmspro; did you mean 'rmsprop'"):
        make_optimizer("rmspro", 0.9)
