"""Batch normalisation by the fused kernel: what it computes, moves, saves and leaves to Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from efficientnetv2.network.compat import UNFUSED_BATCH_NORM, tf_variable, var_path
from efficientnetv2.network.layers import BatchNormalization, norm_layer


def values(shape, seed=0):
    return 2 + 3 * np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def made(shape, **settings):
    """A built layer whose weights all differ."""
    layer = BatchNormalization(**{"momentum": 0.7, "epsilon": 0.01, "name": "bn", **settings})
    layer.build(shape)
    for seed, weight in enumerate(layer.weights):
        weight.assign(np.abs(values(tuple(weight.shape), seed)) + 0.5)
    return layer


def numpy_of(layer):
    return {var_path(w).split("/")[-1]: np.array(w) for w in layer.weights}


def kernels(layer, x, **arguments):
    """The operations of a traced call."""
    call = tf.function(lambda x: layer(x, **arguments))
    graph = call.get_concrete_function(tf.convert_to_tensor(x)).graph
    return {operation.type for operation in graph.get_operations()}


def test_training_normalises_by_the_batch_and_moves_the_statistics():
    x = values((4, 3, 5, 6))
    layer = made(x.shape)
    before = numpy_of(layer)
    y = np.asarray(layer(x, training=True))
    mean, variance, n = x.mean((0, 1, 2)), x.var((0, 1, 2)), 4 * 3 * 5
    expected = (x - mean) / np.sqrt(variance + 0.01) * before["gamma"] + before["beta"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    after = numpy_of(layer)
    np.testing.assert_allclose(
        after["moving_mean"], 0.7 * before["moving_mean"] + 0.3 * mean, rtol=1e-4
    )
    unbiased = variance * n / (n - 1)
    expected = 0.7 * before["moving_variance"] + 0.3 * unbiased
    np.testing.assert_allclose(after["moving_variance"], expected, rtol=1e-4)


@pytest.mark.parametrize("frozen", [False, True])
def test_inference_and_frozen_layers_use_the_statistics_and_leave_them_alone(frozen):
    x = values((2, 3, 3, 4))
    layer = made(x.shape)
    layer.trainable = not frozen
    before = numpy_of(layer)
    y = np.asarray(layer(x, training=frozen))
    scale = before["gamma"] / np.sqrt(before["moving_variance"] + 0.01)
    expected = (x - before["moving_mean"]) * scale + before["beta"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    for name, value in numpy_of(layer).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("training", [True, False])
def test_gradients_agree_with_plain_operations(training):
    x, upstream = tf.constant(values((3, 4, 4, 5))), tf.constant(values((3, 4, 4, 5), 1))
    layer = made(x.shape)
    given = numpy_of(layer)
    mean, variance = given["moving_mean"], given["moving_variance"]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        gamma, beta = tf.constant(given["gamma"]), tf.constant(given["beta"])
        tape.watch([gamma, beta])
        if training:
            mean, variance = tf.nn.moments(x, [0, 1, 2])
        plain = tf.nn.batch_normalization(x, mean, variance, beta, gamma, 0.01)
        y = layer(x, training=training)
    expected = tape.gradient(plain, [x, gamma, beta], upstream)
    sources = [x, tf_variable(layer.gamma), tf_variable(layer.beta)]
    for found, wanted in zip(tape.gradient(y, sources, upstream), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_has_float32_weights_and_statistics(dtype):
    x = values((4, 3, 3, 4)) + 50  # In bfloat16 a mean of 50 has steps of 0.25.
    layer = made(x.shape, dtype=f"mixed_{dtype}", momentum=0.0)
    y = layer(tf.cast(x, dtype), training=True)
    assert y.dtype == dtype
    assert {np.array(w).dtype for w in layer.weights} == {np.dtype("float32")}
    rounded = tf.cast(tf.cast(x, dtype), tf.float32).numpy()
    after = numpy_of(layer)
    np.testing.assert_allclose(after["moving_mean"], rounded.mean((0, 1, 2)), rtol=1e-5)
    expected = rounded.var((0, 1, 2)) * 36 / 35
    np.testing.assert_allclose(after["moving_variance"], expected, rtol=1e-3)


def test_one_value_per_channel_has_no_variance():
    x = values((1, 1, 1, 3))
    layer = made(x.shape, momentum=0.0)
    y = np.asarray(layer(x, training=True))
    np.testing.assert_allclose(y, numpy_of(layer)["beta"].reshape(1, 1, 1, 3), atol=1e-4)
    np.testing.assert_allclose(numpy_of(layer)["moving_variance"], 0, atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
def test_sizes_may_be_unknown_when_traced(compiled):
    layer = made((None, None, None, 4), momentum=0.0)
    signature = [tf.TensorSpec([None, None, None, 4])]
    if compiled:  # XLA: here with static shapes, which is what it compiles.
        signature = [tf.TensorSpec([2, 5, 3, 4])]
    call = tf.function(
        lambda x: layer(x, training=True), input_signature=signature, jit_compile=compiled
    )
    x = values((2, 5, 3, 4))
    np.testing.assert_allclose(call(x), np.asarray(layer(x, training=True)), rtol=1e-4, atol=1e-4)
    expected = x.var((0, 1, 2)) * 30 / 29
    np.testing.assert_allclose(numpy_of(layer)["moving_variance"], expected, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_the_layer_of_the_blocks_is_fused(training):
    settings = {"norm": "batch", "bn_momentum": 0.9, "bn_epsilon": 1e-3, "bn_synchronized": False}
    layer = norm_layer(settings, "bn")
    assert isinstance(layer, keras.layers.BatchNormalization)
    assert "FusedBatchNormV3" in kernels(layer, values((2, 3, 3, 4)), training=training)


def test_synchronized_statistics_are_left_to_keras():
    x = values((4, 3, 3, 4))
    layer = made(x.shape, synchronized=True, momentum=0.0)
    assert "FusedBatchNormV3" not in kernels(layer, x, training=True)
    layer(x, training=True)
    np.testing.assert_allclose(numpy_of(layer)["moving_variance"], x.var((0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "settings"),
    [((8, 4), {}), ((2, 4, 3, 3), {"axis": 1}), ((2, 3, 3, 4), {"scale": False})],
)
@pytest.mark.skipif(not UNFUSED_BATCH_NORM, reason="Keras 2 is fused by itself")
def test_what_the_kernel_cannot_do_is_as_in_keras(shape, settings):
    x, results = values(shape), []
    for kind in (BatchNormalization, keras.layers.BatchNormalization):
        layer = kind(**settings)
        results.append((np.asarray(layer(x, training=True)), *layer.get_weights()))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_saved_layer_comes_back_as_itself():
    layer = BatchNormalization(momentum=0.7, epsilon=0.01, name="bn")
    config = keras.saving.serialize_keras_object(layer)
    assert config["registered_name"] == "efficientnetv2>BatchNormalization"
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is BatchNormalization
    assert again.get_config() == layer.get_config()
