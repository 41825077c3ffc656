"""What is computed for the gradients, and clipping."""

import numpy as np
import pytest
import tensorflow as tf
import tiny_run

from efficientnetv2.training.optimizer import Optimization
from efficientnetv2.training.step import clipped, make_gradients

STRATEGY = tf.distribute.get_strategy()


def operations(settings, head_only=False):
    """Returns the types of all operations of a backward pass."""
    config, model = tiny_run.make_config(settings), tiny_run.make_model()
    optimization = Optimization(config, model)
    gradients_of = make_gradients(STRATEGY, model, optimization, config, 4, 10, head_only=head_only)
    function = tf.function(gradients_of).get_concrete_function(
        tf.TensorSpec([4, 16, 16, 3], tf.uint8),
        tf.TensorSpec([4, tiny_run.CLASSES]),
        tf.TensorSpec([], tf.int64),
    )
    assert len(function.structured_outputs[2]) == len(optimization.weights(head_only))
    return [op.type for op in function.graph.get_operations()]


def test_frozen_layers_have_no_backward_pass():
    def count(found):
        return sum("Backprop" in kind and "Conv" in kind for kind in found)

    assert count(operations("")) > 10
    assert count(operations("train.head_warmup_epoch=1", head_only=True)) == 0
    assert count(operations("train.varsexp=classifier")) == 0
    assert 0 < count(operations("train.freeze=stem|blocks_0")) < count(operations(""))


@pytest.mark.parametrize("limit", [0.0, 1.0, 100.0])
def test_clipping_is_of_each_and_then_of_all(limit):
    gradients = [np.array([3.0, 4.0]), np.array([[0.6], [0.8]]), np.array([0.0, 0.5])]
    found = clipped([tf.constant(g, tf.float32) for g in gradients], limit)
    expected = gradients
    if limit == 1.0:  # Norms 5, 1, 0.5 become 1, 1, 0.5: together 1.5.
        expected = [gradients[0] / 5 / 1.5, gradients[1] / 1.5, gradients[2] / 1.5]
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6)
