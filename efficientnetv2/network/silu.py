"""SiLU with a gradient that XLA compiles to one loop, in functions that XLA does not compile."""

import functools

import tensorflow as tf

WORTH_COMPILING = 2**16  # Elements; XLA compiles for each length, which takes time and memory.


def only_cpus() -> bool:
    """Returns whether all devices are CPUs; others compile whole steps or have own kernels."""
    return all(device.device_type == "CPU" for device in tf.config.list_logical_devices())


@tf.custom_gradient
def silu(x):
    """Computes x * sigmoid(x). Shapes: any -> same. The gradient is computed in float32."""

    def gradient(upstream):
        elements = x.shape.num_elements()
        if elements is not None and elements < WORTH_COMPILING:
            return _gradient(x, upstream)
        compiled = _compiled_gradient(x.dtype)
        return tf.reshape(compiled(tf.reshape(x, [-1]), tf.reshape(upstream, [-1])), tf.shape(x))

    return x * tf.sigmoid(x), gradient


def _gradient(x, upstream):
    dtype, x, upstream = x.dtype, tf.cast(x, tf.float32), tf.cast(upstream, tf.float32)
    gate = tf.sigmoid(x)
    return tf.cast(upstream * gate * (1.0 + x * (1.0 - gate)), dtype)


@functools.cache
def _compiled_gradient(dtype: tf.DType):
    """Returns one trace per dtype, for vectors of any length; XLA compiles it once per length."""
    vector = tf.TensorSpec([None], dtype)
    return tf.function(
        _gradient, input_signature=[vector, vector], jit_compile=True, autograph=False
    )
