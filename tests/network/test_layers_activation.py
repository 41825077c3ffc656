"""The activation of the blocks: the same function and gradient as Keras', compiled in training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from efficientnetv2 import build_model
from efficientnetv2.network import silu
from efficientnetv2.network.blocks import MBConv
from efficientnetv2.network.layers import Activation

X = tf.constant(np.linspace(-40, 40, 2 * 3 * 5 * 4, dtype=np.float32).reshape(2, 3, 5, 4))


def value_and_gradient(layer, x, upstream, training):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training)
    return y, tape.gradient(y, x, upstream)


@pytest.fixture(params=["compiled", "plain"])
def either_gradient(request, monkeypatch):
    least = {"compiled": 0, "plain": 2**30}[request.param]
    monkeypatch.setattr(silu, "WORTH_COMPILING", least)


@pytest.mark.usefixtures("either_gradient")
@pytest.mark.parametrize("name", ["silu", "swish", "relu", "elu", "mish"])
@pytest.mark.parametrize("training", [True, False])
def test_values_and_gradients_are_those_of_keras(name, training):
    upstream = tf.random.stateless_normal(X.shape, [1, 2])
    found = value_and_gradient(Activation(name), X, upstream, training)
    with tf.GradientTape() as tape:
        tape.watch(X)
        y = keras.layers.Activation(name)(X)
    for ours, theirs in zip(found, (y, tape.gradient(y, X, upstream)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("either_gradient")
@pytest.mark.parametrize(("dtype", "step"), [("bfloat16", 2**-8), ("float16", 2**-11)])
def test_the_gradient_in_half_precision_is_rounded_once(dtype, step):
    x, upstream = tf.cast(X, dtype), tf.cast(tf.random.stateless_normal(X.shape, [1, 2]), dtype)
    layer = Activation("silu", dtype=f"mixed_{dtype}")
    y, gradient = value_and_gradient(layer, x, upstream, training=True)
    assert y.dtype == gradient.dtype == dtype
    exact = tf.cast(x, tf.float32).numpy()
    gate = 1 / (1 + np.exp(-exact))
    expected = tf.cast(upstream, tf.float32).numpy() * gate * (1 + exact * (1 - gate))
    np.testing.assert_allclose(tf.cast(gradient, tf.float32), expected, rtol=step, atol=1e-7)


def compiled_calls(layer, training, size=64):
    """How often the graph of value and gradient calls what XLA compiles; 1024 * size elements."""

    @tf.function
    def traced(x):
        return value_and_gradient(layer, x, tf.ones_like(x), training)

    shape = tf.TensorSpec([2, size, 64, 8])
    graph = traced.get_concrete_function(shape).graph.as_graph_def()
    return sum(node.attr["_XlaMustCompile"].b for node in graph.node)


def test_blocks_compile_the_gradient_in_training_alone():
    block = MBConv(8, expand=2, name="b")
    block.build((None, 64, 64, 8))
    assert compiled_calls(block, training=True) == 2
    assert compiled_calls(block, training=False) == 0


def test_small_tensors_are_not_compiled():
    """XLA keeps what it has compiled for each size."""
    assert compiled_calls(Activation("silu"), True, 64) == 1
    assert compiled_calls(Activation("silu"), True, 63) == 0


def test_with_an_accelerator_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(silu, "only_cpus", lambda: False)
    assert compiled_calls(Activation("silu"), True) == 0


def test_a_batch_may_be_of_unknown_size():
    layer = Activation("silu")

    @tf.function(input_signature=[tf.TensorSpec([None, None])])
    def traced(x):
        return value_and_gradient(layer, x, tf.ones_like(x), True)

    for rows in (3, 5):
        x = tf.random.stateless_normal([rows, 4], [rows, 0])
        gate = tf.sigmoid(x)
        y, gradient = traced(x)
        np.testing.assert_allclose(y, x * gate, rtol=1e-5)
        np.testing.assert_allclose(gradient, gate * (1 + x * (1 - gate)), rtol=1e-5, atol=1e-6)


def test_a_saved_layer_comes_back_as_itself():
    layer = Activation("silu", name="act")
    config = keras.saving.serialize_keras_object(layer)
    assert config["registered_name"] == "efficientnetv2>Activation"
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is Activation
    assert again.get_config() == layer.get_config()


def test_a_network_that_nobody_needs_leaves_memory():
    """TensorFlow keeps what a registered gradient refers to, on Keras 2 the weights among it."""
    from tensorflow.python.framework.ops import gradient_registry

    before = set(gradient_registry.list())
    build_model("efficientnetv2-b0", num_classes=2)
    assert set(gradient_registry.list()) == before
