"""Activation functions of the blocks; SiLU's gradient is one loop on a CPU."""

import keras

from efficientnetv2.compat import ON_TENSORFLOW

_SILU = keras.activations.get("silu")


@keras.saving.register_keras_serializable("efficientnetv2")
class Activation(keras.layers.Activation):
    """Keras' layer; in training on CPUs the gradient of SiLU is compiled by XLA.

    What it computes is the same. TensorFlow goes through memory seven times for that gradient,
    which is a sixth of the time of a step. Inference is a plain product: what is exported needs no
    compiler, and TensorFlow's own SiLU would keep each network that was ever built in memory, for
    the gradient that it registers.
    """

    def call(self, inputs, training=None):
        if training and ON_TENSORFLOW and self.activation is _SILU:
            from efficientnetv2.compiled_silu import only_cpus, silu

            if only_cpus():
                return silu(inputs)
        if ON_TENSORFLOW and self.activation is _SILU and not training:
            return inputs * keras.activations.sigmoid(inputs)
        return super().call(inputs)
