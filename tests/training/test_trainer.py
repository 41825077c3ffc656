"""The progressive trainer: strengths per stage, replicas, interruptions and errors."""

import math
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_run
from run_outcome import check_equal, records, state

from efficientnetv2 import hparams
from efficientnetv2.common.errors import UserError
from efficientnetv2.network.compat import tf_variable
from efficientnetv2.network.layers import HeadDropout

UNITS, SCALE = 512, 4.0


def updates(trainer):
    return int(tf_variable(trainer.optimization.optimizer.iterations).numpy())


class TestDropout:
    """The rate of the head's dropout, seen through the loss of the real training step."""

    @staticmethod
    def make_model():
        """Logits are SCALE * (share of units that are kept) and 0."""
        inputs = keras.Input((None, None, 3))
        x = keras.layers.GlobalAveragePooling2D()(inputs)
        x = keras.layers.Dense(UNITS, kernel_initializer="zeros", bias_initializer="ones")(x)
        x = HeadDropout(0.9, name="head_dropout")(x)
        x = keras.layers.ReLU(max_value=1.0)(x)  # Kept ones are above one: undoes the scaling.
        initial = np.stack([np.full(UNITS, SCALE / UNITS), np.zeros(UNITS)], axis=1)
        return keras.Model(
            inputs,
            keras.layers.Dense(2, kernel_initializer=keras.initializers.Constant(initial))(x),
        )

    @staticmethod
    def make_batches(stage, first_step):
        size, rows = stage.image_size, stage.batch_size
        batch = (
            {"image": np.zeros((rows, size, size, 3), np.uint8)},
            {"label": np.tile(np.float32([1, 0]), (rows, 1))},
        )
        return tf.data.Dataset.from_tensors(batch).repeat(stage.end_step - first_step)

    @pytest.mark.parametrize("first_size", [17, 32], ids=["growing", "constant"])
    def test_is_the_rate_of_each_stage(self, tmp_path, first_size):
        config = tiny_run.make_config(
            f"data.ibase={first_size},model.dropout_base=0.1,model.dropout_rate=0.7,"
            "train.label_smoothing=0,train.weight_decay=0,train.lr_base=1e-9,train.ema_decay=0,"
            "runtime.log_step_count_steps=100,runtime.checkpoint_steps=100"
        )
        trainer = tiny_run.make_trainer(tmp_path, config, model=self.make_model)
        trainer.train(self.make_batches)
        logged = records(tmp_path, "train")
        assert [line["stage"] for line in logged] == [0, 1, 2, 3]
        sizes = [line["image_size"] for line in logged]
        assert sizes == ([17, 22, 27, 32] if first_size == 17 else [32] * 4)
        # loss = log(1 + exp(-SCALE * kept))
        dropped = [1 + math.log(math.expm1(line["loss"])) / SCALE for line in logged]
        np.testing.assert_allclose(dropped, [0.1, 0.3, 0.5, 0.7], atol=0.02)
        np.testing.assert_allclose([r["dropout_rate"] for r in logged], [0.1, 0.3, 0.5, 0.7])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run from beginning to end: the trainer, its records, what the data were asked for."""
    model_dir, asked = tmp_path_factory.mktemp("undisturbed"), []

    def make_batches(stage, first_step):
        asked.append((stage.index, stage.image_size, first_step))
        return tiny_run.make_batches(stage, first_step)

    trainer = tiny_run.make_trainer(model_dir)
    last = trainer.train(make_batches, tiny_run.make_examples)
    found = records(model_dir)
    assert {key: last[key] for key in found[-2]} == found[-2]
    return trainer, found, asked


def test_each_stage_has_its_batches_learning_rates_and_evaluations(undisturbed):
    trainer, found, asked = undisturbed
    assert asked == [(0, 17, 0), (1, 22, 3), (2, 27, 6), (3, 32, 9)]
    logged = [line for line in found if line["kind"] == "train"]
    assert [line["step"] for line in logged] == list(range(1, 13))
    assert [line["stage"] for line in logged] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    rates, base = [line["learning_rate"] for line in logged], 0.016 * 8 / 256
    np.testing.assert_allclose(rates[:4], [0, base / 3, base * 2 / 3, base])
    evaluated = [line for line in found if line["kind"] == "eval"]
    assert [line["step"] for line in evaluated] == [3, 6, 9, 12]
    scores = trainer.evaluate(tiny_run.make_examples())
    assert {key: evaluated[-1][key] for key in scores} == scores
    assert trainer.step == updates(trainer) == 12


def test_replicas_give_the_result_of_one_device(tmp_path):
    """No strategy, one mirrored device and two, at the same global batch."""
    config = tiny_run.make_config("train.stages=1,train.epochs=2")
    strategies = {
        "none": tf.distribute.get_strategy(),
        "one": tf.distribute.MirroredStrategy(["CPU:0"]),
        "two": tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]),
    }
    assert strategies["two"].num_replicas_in_sync == 2
    states, logged, scores = {}, {}, {}
    for name, strategy in strategies.items():
        trainer = tiny_run.make_trainer(
            # The unsynchronised layer of Keras 2 has another rule for the moving variance.
            tmp_path / name,
            config,
            strategy,
            lambda: tiny_run.make_model(bn_synchronized=True),
        )
        trainer.train(tiny_run.make_batches)
        states[name], logged[name] = state(trainer), records(tmp_path / name)
        scores[name] = trainer.evaluate(tiny_run.make_examples())
    for name in ("one", "two"):
        for mine, theirs in zip(states[name], states["none"], strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)
        for mine, theirs in zip(logged[name], logged["none"], strict=True):
            assert mine == {
                key: pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
                for key, value in theirs.items()
            }
        assert scores[name] == pytest.approx(scores["none"], rel=1e-4)


class TestInterruption:
    """A run that stops in its third stage (steps 6 to 8) and starts again."""

    @staticmethod
    def resume(model_dir, undisturbed, from_step):
        trainer = tiny_run.make_trainer(model_dir)
        assert trainer.step == from_step
        seen = []

        def make_batches(stage, first_step):
            seen.append((stage.index, first_step))
            return tiny_run.make_batches(stage, first_step)

        trainer.train(make_batches, tiny_run.make_examples)
        assert seen[0] == (2, from_step)
        expected, expected_records, _ = undisturbed
        check_equal(trainer, expected)
        assert records(model_dir) == expected_records
        assert not list(model_dir.rglob("*.part"))

    def test_an_exception(self, tmp_path, undisturbed):
        def failing(stage, first_step):
            def check(batch, step):
                with tf.control_dependencies([tf.debugging.assert_none_equal(step, seventh)]):
                    return tf.nest.map_structure(tf.identity, batch)

            seventh = tf.constant(7, tf.int64)
            steps = tf.data.Dataset.range(first_step, stage.end_step)
            batches = tiny_run.make_batches(stage, first_step)
            return tf.data.Dataset.zip((batches, steps)).map(check)

        with pytest.raises(tf.errors.InvalidArgumentError):
            tiny_run.make_trainer(tmp_path).train(failing, tiny_run.make_examples)
        self.resume(tmp_path, undisturbed, from_step=6)

    def test_a_finished_run_does_nothing_more(self, undisturbed):
        trainer, expected_records, _ = undisturbed
        again = tiny_run.make_trainer(trainer.model_dir)
        assert again.step == 12
        again.train(tiny_run.make_batches, tiny_run.make_examples)
        check_equal(again, trainer)
        assert records(pathlib.Path(trainer.model_dir)) == expected_records


def test_the_initial_weights_follow_from_the_seed(tmp_path):
    kernels = []
    for seed in (0, 0, 1):
        trainer = tiny_run.make_trainer(tmp_path, tiny_run.make_config(f"train.seed={seed}"))
        kernels.append(tf_variable(trainer.model.get_layer("stem_conv").kernel).numpy())
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).any()


def test_data_that_ends_early_is_an_error(tmp_path):
    def too_short(stage, first_step):
        return tiny_run.make_batches(stage, first_step).take(2)

    trainer = tiny_run.make_trainer(tmp_path)
    with pytest.raises(RuntimeError, match="data of stage 1 ended at step 2"):
        trainer.train(too_short)


def test_a_run_of_another_network_does_not_resume(tmp_path):
    tiny_run.make_trainer(tmp_path).checkpoint.save(2)
    other = hparams.with_overrides(tiny_run.make_config(), "train.ema_decay=0")
    with pytest.raises(UserError, match="cannot resume"):
        tiny_run.make_trainer(tmp_path, other)
