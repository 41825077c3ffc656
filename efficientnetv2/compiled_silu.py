"""SiLU with a gradient that XLA compiles to one loop, inside of what TensorFlow runs by itself."""

import functools

import tensorflow as tf


def only_cpus() -> bool:
    """Whether there is no accelerator; those compile whole steps, or have kernels of their own."""
    return all(device.device_type == "CPU" for device in tf.config.list_logical_devices())


@tf.custom_gradient
def silu(x):
    """x * sigmoid(x). Shapes: any -> same. The gradient is computed in float32."""

    def gradient(upstream):
        compiled = _compiled_gradient(x.dtype)
        return tf.reshape(compiled(tf.reshape(x, [-1]), tf.reshape(upstream, [-1])), tf.shape(x))

    return x * tf.sigmoid(x), gradient


@functools.cache
def _compiled_gradient(dtype: tf.DType):
    """One trace for all layers of a type: vectors of any length; XLA compiles once per length."""
    vector = tf.TensorSpec([None], dtype)

    @tf.function(input_signature=[vector, vector], jit_compile=True, autograph=False)
    def gradient(x, upstream):
        x, upstream = tf.cast(x, tf.float32), tf.cast(upstream, tf.float32)
        gate = tf.sigmoid(x)
        return tf.cast(upstream * gate * (1.0 + x * (1.0 - gate)), dtype)

    return gradient
