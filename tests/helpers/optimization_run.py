"""A small model and updates of its weights by made-up gradients."""

import keras
import numpy as np
import tensorflow as tf
import tiny_run

from efficientnetv2.network.compat import tf_variable, var_path
from efficientnetv2.training.optimizer import Optimization


class Body(keras.layers.Layer):
    """A block: two layers inside of one."""

    def build(self, input_shape):
        self.inner_dense = keras.layers.Dense(4, name="inner_dense")
        self.inner_bn = keras.layers.BatchNormalization(name="inner_bn")
        super().build(input_shape)

    def call(self, x, training=None):
        return self.inner_bn(self.inner_dense(x), training=training)


def make_model():
    """Five units: stem, two blocks, head, classifier."""
    x = inputs = keras.Input((3,), name="image")
    x = keras.layers.Dense(4, name="stem_conv")(x)
    x = keras.layers.BatchNormalization(name="stem_bn")(x)
    x = Body(name="blocks_0")(x)
    x = Body(name="blocks_1")(x)
    x = keras.layers.Dense(5, use_bias=False, name="head_conv")(x)
    x = keras.layers.BatchNormalization(name="head_bn")(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="classifier")(x))
    rng = np.random.default_rng(5)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape).astype(np.float32))
    return model


class Run:
    """Updates by made-up gradients, without a forward pass; replicas get equal shares."""

    def __init__(self, overrides="", strategy=None):
        self.strategy = strategy or tf.distribute.get_strategy()
        self.config = tiny_run.make_config(overrides)
        with self.strategy.scope():
            self.model = make_model()
            self.optimization = Optimization(self.config, self.model)
        self.traced = {}

    def step(self, number, rate=0.1, head_only=False):
        if head_only not in self.traced:
            self.traced[head_only] = self._trace(head_only)
        self.traced[head_only](tf.constant(number, tf.int64), tf.constant(rate, tf.float32))

    def _trace(self, head_only):
        optimization = self.optimization
        weights = optimization.weights(head_only)

        def replica(step):
            seed = tf.stack([step, 3])
            gradients = [tf.random.stateless_normal(w.shape, seed) for w in weights]
            optimization.apply(gradients, optimization.weight_decay_at(step, 10), head_only)

        @tf.function
        def traced(step, rate):
            optimization.set_learning_rate(rate)
            self.strategy.run(replica, args=(step,))

        return traced

    def numbers(self):
        return {var_path(w): tf_variable(w).numpy() for w in self.model.weights}

    def state(self):
        return {key: variable.numpy() for key, variable in self.optimization.variables.items()}
