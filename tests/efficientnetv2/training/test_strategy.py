"""Which devices a run uses."""

import pytest
import tensorflow as tf
import tiny_run

from efficientnetv2.training import make_strategy, strategy
from hparams import UserError


@pytest.mark.parametrize("name", ["auto", "one"])
def test_one_device_needs_no_strategy(name):
    assert make_strategy(name) is tf.distribute.get_strategy()


@pytest.mark.parametrize("name", ["mirrored", "gpus"])
def test_mirrored_takes_all_devices_of_a_kind(name):
    made = make_strategy(name)
    assert isinstance(made, tf.distribute.MirroredStrategy)
    assert made.num_replicas_in_sync == len(tf.config.list_logical_devices("CPU")) == 2


def test_an_unknown_name_is_a_user_error():
    with pytest.raises(UserError, match="unknown strategy 'mirored'.*'mirrored'"):
        make_strategy("mirored")


def test_a_tpu_that_cannot_be_reached_is_a_user_error(monkeypatch):
    def resolver(address):
        raise ValueError(f"no TPU at {address}\nmany more lines")

    monkeypatch.setattr(strategy.tf.distribute.cluster_resolver, "TPUClusterResolver", resolver)
    with pytest.raises(UserError, match="--tpu=my-tpu: no TPU at my-tpu; use") as error:
        make_strategy("tpu", "my-tpu")
    assert "\n" not in str(error.value)


def test_the_batch_must_divide_among_the_replicas(tmp_path):
    config = tiny_run.make_config("train.batch_size=7")
    with pytest.raises(UserError, match="train.batch_size=7 .* multiple of the 2 replicas"):
        tiny_run.make_trainer(tmp_path, config, make_strategy("mirrored"))
