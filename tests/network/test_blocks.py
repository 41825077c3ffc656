"""The blocks: what they compute, their shapes, initial values and serialisation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import efficientnetv2
from efficientnetv2.network.blocks import FusedMBConv, MBConv
from efficientnetv2.network.compat import var_path
from efficientnetv2.network.layers import HeadDropout, SqueezeExcite, StochasticDepth

BLOCKS = {"fused": FusedMBConv, "mbconv": MBConv}


def values(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def randomise(layer):
    """Gives every weight a value of its own, so that none hides behind zeros and ones."""
    for index, weight in enumerate(layer.weights):
        value = 0.5 * values(tuple(weight.shape), seed=index)
        weight.assign(np.abs(value) + 0.5 if "variance" in var_path(weight) else value)


def weights_of(layer):
    return {var_path(w).split("/", 1)[1]: np.array(w) for w in layer.weights}


def silu(x):
    return x / (1 + np.exp(-x))


def test_squeeze_excite_agrees_with_numpy():
    layer, x = SqueezeExcite(3, name="se"), values((2, 5, 4, 6))
    layer(x)
    randomise(layer)
    kernels = weights_of(layer)
    gate = x.mean((1, 2)) @ kernels["reduce_conv/kernel"][0, 0] + kernels["reduce_conv/bias"]
    gate = silu(gate) @ kernels["expand_conv/kernel"][0, 0] + kernels["expand_conv/bias"]
    expected = x / (1 + np.exp(-gate))[:, None, None]
    np.testing.assert_allclose(np.asarray(layer(x)), expected, rtol=1e-5, atol=1e-6)


def test_squeeze_excite_uses_the_activation_it_is_given():
    layer, x = SqueezeExcite(3, activation="relu", name="se"), values((2, 3, 3, 6))
    layer(x)
    randomise(layer)
    kernels = weights_of(layer)
    gate = x.mean((1, 2)) @ kernels["reduce_conv/kernel"][0, 0] + kernels["reduce_conv/bias"]
    gate = np.maximum(gate, 0) @ kernels["expand_conv/kernel"][0, 0] + kernels["expand_conv/bias"]
    expected = x / (1 + np.exp(-gate))[:, None, None]
    np.testing.assert_allclose(np.asarray(layer(x)), expected, rtol=1e-5, atol=1e-6)


def numpy_steps(block, x):
    """What a block computes before its residual, step by step with TensorFlow's plain ops."""
    kernels = weights_of(block)

    def norm(y, step):
        get = [kernels[f"{step}_bn/{k}"] for k in ("gamma", "beta", "moving_mean")]
        scale = get[0] / np.sqrt(kernels[f"{step}_bn/moving_variance"] + 1e-3)
        return (y - get[2]) * scale + get[1]

    def convolve(y, step, stride):
        return tf.nn.conv2d(y, kernels[f"{step}_conv/kernel"], stride, "SAME").numpy()

    def excite(y):
        gate = y.mean((1, 2)) @ kernels["se/reduce_conv/kernel"][0, 0]
        gate = silu(gate + kernels["se/reduce_conv/bias"])
        gate = gate @ kernels["se/expand_conv/kernel"][0, 0] + kernels["se/expand_conv/bias"]
        return y / (1 + np.exp(-gate))[:, None, None]

    mbconv, first = isinstance(block, MBConv), block.stride
    if block.expand != 1:
        x = silu(norm(convolve(x, "expand", 1 if mbconv else block.stride), "expand"))
        first = block.stride if mbconv else 1
    if mbconv:
        kernel = kernels["depthwise_conv/kernel"]
        x = tf.nn.depthwise_conv2d(x, kernel, [1, first, first, 1], "SAME").numpy()
        x, first = silu(norm(x, "depthwise")), 1
    x = norm(convolve(excite(x) if block.se_ratio else x, "project", first), "project")
    return silu(x) if not mbconv and block.expand == 1 else x


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("expand", [1, 3])
@pytest.mark.parametrize(("stride", "channels"), [(1, 8), (2, 8), (1, 12)])
@pytest.mark.parametrize("se_ratio", [0.0, 0.25])
def test_blocks_agree_with_plain_operations(kind, expand, stride, channels, se_ratio):
    """Shapes at odd sizes, order of the steps, activations, and when the residual applies."""
    block = BLOCKS[kind](
        channels, kernel=3, stride=stride, expand=expand, se_ratio=se_ratio, name="b"
    )
    x = values((2, 7, 5, 8))
    block(x)
    randomise(block)
    y = np.asarray(block(x, training=False))
    expected = numpy_steps(block, x)
    if stride == 1 and channels == 8:
        expected = expected + x
    assert y.shape == (2, 7, 5, channels) if stride == 1 else (2, 4, 3, channels)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", BLOCKS)
def test_squeeze_excite_reduces_the_channels_of_the_input(kind):
    block = BLOCKS[kind](8, expand=4, se_ratio=0.25, name="b")
    block(values((1, 4, 4, 12)))
    assert weights_of(block)["se/reduce_conv/kernel"].shape == (1, 1, 48, 3)


def test_weight_paths_are_the_same_on_both_generations():
    block = MBConv(8, expand=2, se_ratio=0.25, name="b")
    block(values((1, 4, 4, 8)))
    norm = ("gamma", "beta", "moving_mean", "moving_variance")
    expected = {f"b/{s}_bn/{k}" for s in ("expand", "depthwise", "project") for k in norm}
    expected |= {f"b/{s}_conv/kernel" for s in ("expand", "depthwise", "project")}
    expected |= {f"b/se/{s}_conv/{k}" for s in ("reduce", "expand") for k in ("kernel", "bias")}
    assert {var_path(w) for w in block.weights} == expected


def test_initial_kernels_have_the_official_standard_deviation():
    """sqrt(2 / (kernel area * channels out)); 2 / kernel area for depthwise; biases zero."""
    keras.utils.set_random_seed(1)
    block = MBConv(64, kernel=5, expand=4, se_ratio=0.25, name="b")
    block(np.zeros((1, 4, 4, 64), np.float32))
    fused = FusedMBConv(64, kernel=3, expand=2, name="f")
    fused(np.zeros((1, 4, 4, 64), np.float32))
    found = weights_of(block)
    for name, area, channels in (
        ("expand_conv", 1, 256),
        ("depthwise_conv", 25, 1),
        ("project_conv", 1, 64),
        ("se/reduce_conv", 1, 16),
        ("se/expand_conv", 1, 256),
    ):
        kernel, deviation = found[f"{name}/kernel"], np.sqrt(2 / (area * channels))
        assert kernel.std() == pytest.approx(deviation, rel=0.05), name
        assert abs(kernel.mean()) < 0.05 * deviation, name
        # Not truncated: 4.6% of a normal distribution lies outside of two deviations.
        assert (abs(kernel) > 2 * deviation).mean() == pytest.approx(0.0455, abs=0.02), name
    assert not found["se/reduce_conv/bias"].any() and not found["se/expand_conv/bias"].any()
    kernel = weights_of(fused)["expand_conv/kernel"]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.05)


def test_classifier_starts_uniform():
    keras.utils.set_random_seed(1)
    spec = efficientnetv2.ModelSpec("t", (efficientnetv2.Blocks("fused", 1, 3, 1, 1, 8, 8),))
    kernel, bias = efficientnetv2.build_model(spec, num_classes=25).get_layer("classifier").weights
    kernel = np.array(kernel)
    assert 0.99 * 0.2 < abs(kernel).max() <= 0.2
    assert kernel.std() == pytest.approx(0.2 / np.sqrt(3), rel=0.02)
    assert not np.array(bias).any()


@pytest.mark.parametrize("name", ["efficientnetv2-b0", "efficientnetv2-b1"])
def test_stochastic_depth_rises_linearly_over_the_blocks(name):
    model = efficientnetv2.build_model(name)
    blocks = [layer for layer in model.layers if isinstance(layer, (FusedMBConv, MBConv))]
    count = {"efficientnetv2-b0": 21, "efficientnetv2-b1": 27}[name]
    assert len(blocks) == count
    assert [b.name for b in blocks] == [f"blocks_{i}" for i in range(count)]
    for index, block in enumerate(blocks):
        assert block.drop_rate == pytest.approx(0.2 * index / count)
        if block.has_residual:
            assert block.drop_path.rate == block.drop_rate
            assert block.drop_path.name == f"blocks_{index}_drop_path"


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_training_mean_of_a_block_is_its_inference_output(kind):
    keras.utils.set_random_seed(3)
    block = BLOCKS[kind](4, expand=2, drop_rate=0.4, bn_momentum=0.0, name="b")
    x = np.repeat(values((4, 3, 3, 4)), 1000, axis=0)
    block(x, training=True)  # Momentum 0: the running statistics become those of this batch.
    trained = np.asarray(block(x, training=True)).reshape(4, 1000, -1)
    inferred = np.asarray(block(x, training=False)).reshape(4, 1000, -1)
    branch = inferred - x.reshape(4, 1000, -1)
    dropped = (trained == x.reshape(4, 1000, -1)).all(-1)  # Nothing but the residual is left.
    assert dropped.mean() == pytest.approx(0.4, abs=0.03)
    np.testing.assert_allclose(
        (trained - x.reshape(4, 1000, -1))[~dropped], (branch / 0.6)[~dropped], rtol=0.01, atol=0.01
    )
    for row in range(4):
        kept = (~dropped[row]).mean() / 0.6
        mean = branch[row, 0] * kept + x[row * 1000].reshape(-1)
        np.testing.assert_allclose(trained[row].mean(0), mean, rtol=0.02, atol=0.02)
        assert kept == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
@pytest.mark.parametrize("kind", BLOCKS)
def test_a_drop_rate_outside_of_0_to_1_is_an_error(kind, rate):
    with pytest.raises(ValueError, match="drop_rate must be in"):
        BLOCKS[kind](8, drop_rate=rate)


SETTINGS = {
    "channels": 12,
    "kernel": 5,
    "stride": 2,
    "expand": 3,
    "se_ratio": 0.5,
    "drop_rate": 0.3,
    "activation": "relu",
    "bn_momentum": 0.8,
    "bn_epsilon": 0.01,
    "bn_synchronized": True,
}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (MBConv, SETTINGS),
        (FusedMBConv, SETTINGS),
        (SqueezeExcite, {"reduced_channels": 3, "activation": "relu"}),
        (StochasticDepth, {"rate": 0.3}),
        (HeadDropout, {"rate": 0.3}),
    ],
)
def test_registered_layers_come_back_from_their_config(kind, settings):
    layer = kind(**settings, name="some_name")
    assert keras.saving.get_registered_name(kind) == f"efficientnetv2>{kind.__name__}"
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is kind
    assert again.get_config() == layer.get_config()
    assert again.name == "some_name"
    assert {key: again.get_config()[key] for key in settings} == settings
    x = values((2, 6, 6, 8))
    layer(x), again(x)
    assert [(var_path(w), w.shape) for w in again.weights] == [
        (var_path(w), w.shape) for w in layer.weights
    ]
