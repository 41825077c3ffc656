"""The policy of layers, the scale of the loss, and when XLA compiles."""

import keras
import pytest
import tensorflow as tf
import tiny_run

from efficientnetv2.training.optimizer import LossScale, default_jit, effective_jit, policy_scope

STRATEGY = tf.distribute.get_strategy()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_layers_compute_in_the_precision_and_keep_float32(precision):
    with policy_scope(precision):
        model = tiny_run.make_model()
    assert keras.layers.Dense(1).compute_dtype == "float32"
    assert model.get_layer("blocks_1").compute_dtype == precision
    assert model.get_layer("head_act").output.dtype == precision
    assert model.output.dtype == "float32"
    assert {str(tf.as_dtype(weight.dtype).name) for weight in model.weights} == {"float32"}


def test_the_policy_is_restored_after_an_error():
    with pytest.raises(KeyError), policy_scope("float16"):
        raise KeyError
    assert keras.layers.Dense(1).compute_dtype == "float32"


def test_the_scale_halves_at_once_and_doubles_after_a_period():
    scale = LossScale()
    assert scale.scale.numpy() == 2**15
    scale.update(tf.constant(False))
    assert scale.scale.numpy() == 2**14
    for _ in range(LossScale.PERIOD - 1):
        scale.finite_steps.assign_add(1)
    scale.update(tf.constant(True))
    assert (scale.scale.numpy(), scale.finite_steps.numpy()) == (2**15, 0)
    scale.update(tf.constant(True))
    assert scale.finite_steps.numpy() == 1
    scale.update(tf.constant(False))
    assert (scale.scale.numpy(), scale.finite_steps.numpy()) == (2**14, 0)
    scale.scale.assign(1.0)
    scale.update(tf.constant(False))
    assert scale.scale.numpy() == 1
    assert set(scale.variables) == {"loss_scale/scale", "loss_scale/finite_steps"}


def test_xla_is_by_default_for_one_gpu(monkeypatch):
    config = tiny_run.make_config()
    assert not effective_jit(config, STRATEGY)
    assert effective_jit(tiny_run.make_config("train.jit_compile=true"), STRATEGY)
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    assert default_jit(STRATEGY)
    assert not default_jit(two)
    assert effective_jit(config, STRATEGY)
    assert not effective_jit(tiny_run.make_config("train.jit_compile=false"), STRATEGY)
