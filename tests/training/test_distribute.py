"""Which devices a run uses, and that it does not matter."""

import functools
import json

import numpy as np
import pytest
import tensorflow as tf
import tiny_run

from efficientnetv2 import hparams
from efficientnetv2.common.errors import UserError
from efficientnetv2.network.compat import tf_variable
from efficientnetv2.training import distribute
from efficientnetv2.training.distribute import make_strategy, read_tf_config
from efficientnetv2.training.step import make_train_step

WORKERS = {"worker": ["one:1", "two:2"]}


@pytest.mark.parametrize("name", ["auto", "one"])
def test_one_device_needs_no_strategy(name):
    assert make_strategy(name) is tf.distribute.get_strategy()


@pytest.mark.parametrize("name", ["mirrored", "gpus"])
def test_mirrored_takes_all_devices_of_a_kind(name):
    made = make_strategy(name)
    assert isinstance(made, tf.distribute.MirroredStrategy)
    assert made.num_replicas_in_sync == len(tf.config.list_logical_devices("CPU")) == 2
    assert make_strategy(name) is made


def test_an_unknown_name_is_a_user_error():
    with pytest.raises(UserError, match="unknown strategy 'mirored'.*'mirrored'"):
        make_strategy("mirored")


def test_a_tpu_that_cannot_be_reached_is_a_user_error(monkeypatch):
    def resolver(address):
        raise ValueError(f"no TPU at {address}\nmany more lines")

    monkeypatch.setattr(distribute.tf.distribute.cluster_resolver, "TPUClusterResolver", resolver)
    with pytest.raises(UserError, match="--tpu=my-tpu: no TPU at my-tpu; use") as error:
        make_strategy("tpu", "my-tpu")
    assert "\n" not in str(error.value)


def test_the_batch_must_divide_among_the_replicas(tmp_path):
    config = tiny_run.make_config("train.batch_size=7")
    with pytest.raises(UserError, match="multiple of the 2 replicas; change .*=7"):
        tiny_run.make_trainer(tmp_path, config, make_strategy("mirrored"))


def tf_config(cluster, **task):
    return json.dumps({"cluster": cluster, "task": task})


def test_workers_are_those_of_tf_config():
    first = tf_config(WORKERS, type="worker", index="0")
    assert read_tf_config(first) == (WORKERS, "worker", 0)
    cluster = {"chief": ["boss:1"], **WORKERS}
    assert read_tf_config(tf_config(cluster, type="worker", index=1)) == (cluster, "worker", 1)
    assert read_tf_config(tf_config(cluster, type="chief", index=0)) == (cluster, "chief", 0)


@pytest.mark.parametrize(
    "text, fault",
    [
        ("", "is not set"),
        ("{", "is no JSON"),
        ("[]", "names no workers"),
        (tf_config({}, type="worker", index=0), "names no workers"),
        (tf_config({"worker": []}, type="worker", index=0), "names no workers"),
        (tf_config({**WORKERS, "ps": ["three:3"]}, type="ps", index=0), "has the job 'ps'"),
        (tf_config({"worker": "one:1"}, type="worker", index=0), "must list the HOST:PORT"),
        (tf_config({"worker": ["one"]}, type="worker", index=0), "must list the HOST:PORT"),
        (tf_config({"worker": [":1"]}, type="worker", index=0), "must list the HOST:PORT"),
        (tf_config({"worker": ["one:1", "one:1"]}, type="worker", index=0), "an address twice"),
        (tf_config({**WORKERS, "chief": ["a:1", "b:1"]}, type="chief", index=0), "several chiefs"),
        (json.dumps({"cluster": WORKERS}), "must say in its task"),
        (tf_config(WORKERS, type="chief", index=0), "which type this process is: worker"),
        (tf_config(WORKERS, type="worker"), "has no worker None"),
        (tf_config(WORKERS, type="worker", index=2), "has no worker 2: indices go from 0 to 1"),
        (tf_config(WORKERS, type="worker", index=-1), "has no worker -1"),
    ],
)
def test_a_wrong_tf_config_is_a_user_error(monkeypatch, text, fault):
    monkeypatch.setenv("TF_CONFIG", text)
    line = f'^--strategy=multiworker: TF_CONFIG .*{fault}.*; an example: {{"cluster": '
    with pytest.raises(UserError, match=line) as error:
        make_strategy("multiworker")
    assert "\n" not in str(error.value)


def outcome(trainer):
    """Weights, averages, optimizer state, and the records but for their speed."""
    own = [tf_variable(weight) for weight in trainer.model.weights]
    own += [*trainer.optimization.variables.values(), *trainer.average.averages]
    with open(f"{trainer.model_dir}/metrics.jsonl") as file:
        records = [json.loads(line) for line in file]
    for record in records:
        record.pop("images_per_second", None)
        record["kind"] = record["kind"] == "eval"  # A number, for `pytest.approx`.
    return [variable.numpy() for variable in own], records


@pytest.mark.slow
def test_two_replicas_end_as_one_does(tmp_path):
    """Over two stages, evaluated with 21 examples in batches of 16."""
    model, found = functools.partial(tiny_run.make_model, bn_synchronized=True), []
    for name in ("one", "mirrored"):
        settings = "train.stages=2,train.epochs=2,train.lr_base=0.5,train.ema_decay=0.9"
        config = tiny_run.make_config(settings)
        trainer = tiny_run.make_trainer(tmp_path / name, config, make_strategy(name), model)
        trainer.train(tiny_run.make_batches, tiny_run.make_examples)
        found.append(outcome(trainer))
    (values, records), (others, other_records) = found
    for value, other in zip(values, others, strict=True):
        np.testing.assert_allclose(other, value, rtol=1e-4, atol=1e-4)
    assert len(records) == len(other_records) == 6 + 2
    for record, other in zip(records, other_records):
        assert other == pytest.approx(record, rel=1e-4)


@pytest.mark.slow
def test_xla_compiles_all_of_a_step_as_a_tpu_does(tmp_path):
    """Static shapes, and nothing that only the host can do; it computes the same."""
    config = tiny_run.make_config("train.precision=bfloat16,train.ema_decay=0.9")
    stage, found = hparams.make_stages(config)[1], []
    features, labels = next(iter(tiny_run.make_batches(stage, stage.first_step)))
    padded = {**features, "weight": tf.ones([stage.batch_size])}
    for compiles in (False, True):
        trainer = tiny_run.make_trainer(tmp_path, config)
        own = trainer.strategy, trainer.model, trainer.optimization, trainer.average
        train_step = make_train_step(*own, config, stage, total_steps=12)
        both = functools.partial(step_and_scores, train_step, trainer.evaluator.step)
        loss, sums = tf.function(both, jit_compile=compiles)(features, labels, padded)
        moved = trainer.average.by_path["classifier/kernel"]
        found.append((float(loss), sums.numpy()[[0, -1]], moved.numpy()))
    for plain, compiled in zip(*found):
        np.testing.assert_allclose(compiled, plain, rtol=0.05, atol=0.01)  # bfloat16 has 8 bits.


def step_and_scores(train_step, eval_step, features, labels, padded):
    loss = train_step(features, labels, 3, 0.1).loss
    with tf.control_dependencies([loss]):
        return loss, eval_step(padded, labels)[0]
