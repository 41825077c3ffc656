"""Activation functions of the blocks; SiLU's gradient is one loop on a CPU."""

import keras

from efficientnetv2.compat import ON_TENSORFLOW

_SILU = keras.activations.get("silu")


@keras.saving.register_keras_serializable("efficientnetv2")
class Activation(keras.layers.Activation):
    """Keras' layer; in training on CPUs the gradient of SiLU is compiled by XLA.

    What it computes is the same. TensorFlow goes through memory seven times for that gradient,
    which is a sixth of the time of a step. Inference is Keras' own, so what is exported needs no
    compiler.
    """

    def call(self, inputs, training=None):
        if training and ON_TENSORFLOW and self.activation is _SILU:
            from efficientnetv2.compiled_silu import only_cpus, silu

            if only_cpus():
                return silu(inputs)
        return super().call(inputs)
