"""SiLU with a gradient that XLA compiles to one loop, inside of what TensorFlow runs by itself."""

import functools

import tensorflow as tf

WORTH_COMPILING = 2**16  # Elements; XLA keeps what it compiled for each length, and takes its time.


def only_cpus() -> bool:
    """Whether there is no accelerator; those compile whole steps, or have kernels of their own."""
    return all(device.device_type == "CPU" for device in tf.config.list_logical_devices())


@tf.custom_gradient
def silu(x):
    """x * sigmoid(x). Shapes: any -> same. The gradient is computed in float32."""

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
    """One trace for all layers of a type: vectors of any length; XLA compiles once per length."""
    vector = tf.TensorSpec([None], dtype)
    return tf.function(
        _gradient, input_signature=[vector, vector], jit_compile=True, autograph=False
    )
