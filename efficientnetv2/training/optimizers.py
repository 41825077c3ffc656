"""The optimizer of the official code."""

import keras
import tensorflow as tf

from efficientnetv2.compat import tf_variable


@keras.saving.register_keras_serializable("efficientnetv2")
class OfficialRMSprop(keras.optimizers.RMSprop):
    """RMSProp whose mean of squares starts at one, not at zero as in Keras.

    Starting at one keeps the first updates small; starting at zero makes them up to
    1 / sqrt(1 - rho) of the learning rate each, whatever the gradient.

    Source: official (TF1) RMSProp: decay 0.9, momentum 0.9, epsilon 0.001 inside the root.
    """

    def __init__(self, learning_rate=0.016, rho=0.9, momentum=0.9, epsilon=1e-3, **kwargs):
        # Keras 3 would number the names, and a checkpoint's keys with them.
        kwargs.setdefault("name", "official_rm_sprop")
        super().__init__(learning_rate, rho=rho, momentum=momentum, epsilon=epsilon, **kwargs)

    def build(self, var_list):
        built_before = getattr(self, "_velocities", None)
        super().build(var_list)
        if not built_before:
            for mean_square in self._velocities:
                variable = tf_variable(mean_square)
                variable.assign(tf.ones_like(variable))
