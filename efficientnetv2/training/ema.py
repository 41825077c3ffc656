"""Moving average of the weights, used for evaluation and export."""

import contextlib

import keras
import tensorflow as tf

from efficientnetv2.network.compat import tf_variable, var_path


class WeightAverage:
    """Exponential moving average over trainable weights **and** BatchNorm statistics.

    At step t (counted after the update of the weights) the decay is min(decay, (1 + t) / (10 + t)).
    Create it after loading weights, under the scope of the strategy.
    Source: official EMA of main.py; that of Keras averages only trainable weights, without warm-up.
    """

    def __init__(self, model: keras.Model, decay: float):
        self.decay = decay
        self.weights = [tf_variable(w) for w in model.weights]
        self.averages = [
            tf.Variable(w, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
            for w in self.weights
        ]
        paths = [var_path(w) for w in model.weights]
        self.by_path = dict(zip(paths, self.averages, strict=True))

    def update(self, step: tf.Tensor) -> None:
        """Moves the averages toward the weights; call it in a replica, after the update.

        `step`: int64 scalar, the number of updates made.
        """
        t = tf.cast(step, tf.float32)
        keep = tf.minimum(self.decay, (1.0 + t) / (10.0 + t))
        for average, weight in zip(self.averages, self.weights, strict=True):
            if weight.dtype.is_floating:
                average.assign_sub((average - weight) * (1.0 - keep))
            else:  # A counter, as in some layers of keras.applications.
                average.assign(weight)

    @contextlib.contextmanager
    def in_model(self):
        """Swaps the averages into the model in the context, then restores its weights exactly."""
        own = [weight.numpy() for weight in self.weights]
        try:
            for average, weight in zip(self.averages, self.weights, strict=True):
                weight.assign(average.numpy())
            yield
        finally:
            for value, weight in zip(own, self.weights, strict=True):
                weight.assign(value)
