"""Runs that stop: by a signal, by a loss that is no number, or because nothing gets better."""

import os
import signal

import numpy as np
import pytest
import tensorflow as tf
import tiny_run
from run_outcome import check_equal, records, state

from efficientnetv2 import hparams, load_weights
from efficientnetv2.common.errors import UserError
from efficientnetv2.network.compat import tf_variable
from efficientnetv2.training import step as steps
from efficientnetv2.training import trainer
from efficientnetv2.training import trainer as training_loop
from efficientnetv2.training.callbacks import Callback
from efficientnetv2.training.signals import TrainingStopped

SETTINGS = (
    "train.stages=2,runtime.log_step_count_steps=4,runtime.checkpoint_steps=3,"  # Of 6 steps.
)


def make_trainer(model_dir, overrides="", **more):
    config = tiny_run.make_config(SETTINGS + overrides)
    return tiny_run.make_trainer(model_dir, config, model=tiny_run.make_quick_model, **more)


def saved_steps(model_dir):
    return sorted(int(path.stem[5:]) for path in model_dir.glob("ckpt-*.index"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    model_dir = tmp_path_factory.mktemp("undisturbed")
    trainer = make_trainer(model_dir)
    trainer.train(tiny_run.make_batches, tiny_run.make_examples)
    return trainer, records(model_dir)


class Signalling(Callback):
    """Sends this process SIGTERM."""

    def send(self):
        os.kill(os.getpid(), signal.SIGTERM)

    def evaluating(self):
        """The examples, with a signal when the second half is read."""
        half = [False]

        def ask(image, label):
            def send():
                if not half[0]:
                    half[0] = True
                    self.send()
                return np.int32(0)

            with tf.control_dependencies([tf.py_function(send, [], tf.int32)]):
                return {"image": tf.identity(image["image"])}, label

        examples = tiny_run.make_examples()
        return examples.take(10).concatenate(examples.skip(10).map(ask))


class TestSignals:
    """SIGTERM and Ctrl-C: the step is finished, all is saved, nothing of the result changes."""

    @staticmethod
    def resume(model_dir, undisturbed):
        again = make_trainer(model_dir)
        again.train(tiny_run.make_batches, tiny_run.make_examples)
        check_equal(again, undisturbed[0])
        assert records(model_dir) == undisturbed[1]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_in_a_step(self, tmp_path, undisturbed, monkeypatch, number):
        """With a record half way between two (after 4, before 6)."""
        learning_rate_at = training_loop.learning_rate_at

        def signalling(config, stages, step):
            if step == 4:
                os.kill(os.getpid(), number)
            return learning_rate_at(config, stages, step)

        handler = signal.getsignal(number)
        with monkeypatch.context() as patch:
            patch.setattr(training_loop, "learning_rate_at", signalling)
            run = make_trainer(tmp_path)
            with pytest.raises(TrainingStopped, match="^stopped at step 5$"):
                run.train(tiny_run.make_batches, tiny_run.make_examples)
        assert signal.getsignal(number) is handler
        assert saved_steps(tmp_path) == [3, 5]
        assert run.checkpoint.extra["window"]["steps"] == 1
        assert records(tmp_path) == [r for r in undisturbed[1] if r["step"] <= 5]
        self.resume(tmp_path, undisturbed)

    def test_in_an_evaluation(self, tmp_path, undisturbed):
        """It is broken off; weights that were averages for its time are saved as they were."""
        run = make_trainer(tmp_path)
        with pytest.raises(TrainingStopped, match="step 3"):
            run.train(tiny_run.make_batches, Signalling().evaluating)
        assert saved_steps(tmp_path) == [3]
        assert records(tmp_path) == [r for r in undisturbed[1] if r["step"] <= 3][:-1]
        again = make_trainer(tmp_path)  # Again, in the evaluation that it begins with.
        with pytest.raises(TrainingStopped, match="step 3"):
            again.train(tiny_run.make_batches, Signalling().evaluating)
        assert saved_steps(tmp_path) == [3]
        self.resume(tmp_path, undisturbed)

    def test_before_an_evaluation(self, tmp_path, undisturbed, monkeypatch):
        class AtRecord(Signalling):
            def on_log(self, step, stage, values):
                self.send()

        run = make_trainer(tmp_path, callbacks=[AtRecord()])
        monkeypatch.setattr(run, "evaluator", lambda dataset: pytest.fail("it began"))
        with pytest.raises(TrainingStopped, match="step 3"):
            run.train(tiny_run.make_batches, tiny_run.make_examples)
        self.resume(tmp_path, undisturbed)


def describe(stage, step):
    return [f"{stage.image_size}px-{step}-{i}.jpg" for i in range(3)]


class TestNotFinite:
    """A batch whose loss is no number."""

    @pytest.mark.parametrize("step", [7, 8])
    def test_it_ends_the_run_before_the_next_checkpoint(self, tmp_path, step):
        run = make_trainer(tmp_path, describe_batch=describe)
        message = (
            rf"^the loss is nan, the gradient's norm nan at step {step}, learning rate 0.000.*; "
            rf"its batch: 32px-{step}-0.jpg, 32px-{step}-1.jpg, 32px-{step}-2.jpg; last good "
            r"checkpoint: .*/ckpt-6; lower train.lr_base, .* train.on_nan=rollback skips the batch$"
        )
        with pytest.raises(UserError, match=message):
            run.train(tiny_run.make_poisoned_batches(step), tiny_run.make_examples)
        assert not all(np.isfinite(value).all() for value in state(run))  # The test is not void.
        assert saved_steps(tmp_path) == [3, 6]
        again = make_trainer(tmp_path)
        assert again.step == 6
        assert all(np.isfinite(value).all() for value in state(again))
        assert load_weights(tiny_run.make_quick_model(), str(tmp_path)).step == 6
        assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()

    @pytest.mark.parametrize("value", ["nan", "inf"])
    def test_a_gradient_that_is_none_is_enough_and_the_first_such_step_is_told(
        self, tmp_path, monkeypatch, value
    ):
        make_train_step = steps.make_train_step

        def make_bad(*arguments):
            train_step = make_train_step(*arguments)

            def bad(features, labels, step, learning_rate):
                result = train_step(features, labels, step, learning_rate)
                norm = tf.constant(float(value)) if step in (1, 2) else result.gradient_norm
                return result._replace(gradient_norm=norm)

            return bad

        monkeypatch.setattr(trainer, "make_train_step", make_bad)
        message = rf"norm {value} at step 1, .*; last good checkpoint: none; "
        with pytest.raises(UserError, match=message):
            make_trainer(tmp_path).train(tiny_run.make_batches)
        assert saved_steps(tmp_path) == []

    def test_a_rollback_skips_its_batch_and_is_repeated_by_a_run_that_was_killed(self, tmp_path):
        """Steps 1 (before any checkpoint), 4 and 7; the latter twice, in two processes."""
        bad, settings = tiny_run.make_poisoned_batches(1, 4, 7), "train.on_nan=rollback"
        run = make_trainer(tmp_path / "whole", settings)
        run.train(bad, tiny_run.make_examples)
        assert (run.step, run.checkpoint.extra["skipped"]) == (12, [1, 4, 7])
        assert all(np.isfinite(value).all() for value in state(run))
        assert int(tf_variable(run.optimization.optimizer.iterations).numpy()) == 9
        found = records(tmp_path / "whole")
        assert [r["step"] for r in found if r["kind"] == "train"] == [3, 4, 6, 8, 9, 12]
        assert "NaN" not in (tmp_path / "whole" / "metrics.jsonl").read_text()

        def failing(stage, first_step):
            return bad(stage, first_step).take(8 - first_step)

        with pytest.raises(RuntimeError, match="ended at step 8"):
            make_trainer(tmp_path / "cut", settings).train(failing, tiny_run.make_examples)
        again = make_trainer(tmp_path / "cut", settings)
        assert (again.step, again.checkpoint.extra["skipped"]) == (6, [1, 4])
        again.train(bad, tiny_run.make_examples)
        check_equal(again, run)
        assert records(tmp_path / "cut") == found
        assert again.checkpoint.extra == run.checkpoint.extra

    def test_the_skipped_batch_is_as_if_it_had_never_been(self, tmp_path):
        """The other batches make their steps with the rates and the noise of their numbers."""
        bad = make_trainer(tmp_path / "bad", "train.on_nan=rollback")
        bad.train(tiny_run.make_poisoned_batches(4))
        skipping = make_trainer(tmp_path / "skipping", "train.on_nan=rollback")
        skipping.checkpoint.extra = {"skipped": [4]}
        skipping.train(tiny_run.make_batches)
        check_equal(bad, skipping)

    def test_what_no_rollback_mends_ends_the_run(self, tmp_path, capsys):
        settings = "train.on_nan=rollback,train.epochs=6,train.stages=1"
        bad = tiny_run.make_poisoned_batches(*range(1, 18))
        with pytest.raises(UserError, match="at step 11, .*10 batches of this stage were skipped"):
            make_trainer(tmp_path, settings).train(bad)
        told = [line for line in capsys.readouterr().out.splitlines() if "skipping" in line]
        assert len(told) == 10
        assert told[0].endswith("norm nan at step 1: skipping it, from step 0 on")


class TestEarlyStop:
    """`eval.patience` evaluations without a better one."""

    SETTINGS = "eval.best_metric=loss,eval.patience=1,train.ema_decay=0.5,train.lr_base="

    def test_ends_the_run_for_good_and_keeps_the_best_weights(self, tmp_path, capsys):
        settings = f"{self.SETTINGS}1000"  # Nothing gets better.
        run = make_trainer(tmp_path, settings)
        run.train(tiny_run.make_batches, tiny_run.make_examples)
        assert run.step < 12
        assert "stopping early: eval.patience=1 evaluations" in capsys.readouterr().out
        found = records(tmp_path)
        evaluated = [record for record in found if record["kind"] == "eval"]
        assert evaluated[-1]["step"] == run.step == saved_steps(tmp_path)[-1]
        best = min(evaluated, key=lambda record: record["loss"])
        assert best != evaluated[-1]
        report = load_weights(run.model, str(tmp_path / "best"))
        assert (report.step, report.used_ema) == (best["step"], True)
        scores = run.evaluator(tiny_run.make_examples())
        assert {key: best[key] for key in scores} == scores

        again = make_trainer(tmp_path, settings)
        again.train(lambda *_: pytest.fail("it trains on"), tiny_run.make_examples)
        assert (again.step, records(tmp_path)) == (run.step, found)

    def test_a_metric_that_is_not_measured_is_refused_before_anything_is_written(self, tmp_path):
        with pytest.raises(UserError, match="eval.best_metric=global_ap is not measured"):
            make_trainer(tmp_path / "run", "eval.best_metric=global_ap")
        assert not (tmp_path / "run").exists()


def test_settings_that_end_before_the_step_reached_are_refused(tmp_path):
    make_trainer(tmp_path).checkpoint.save(12)
    stages = hparams.make_stages(tiny_run.make_config("train.epochs=2,train.stages=1"))
    assert stages[-1].end_step == 6
    with pytest.raises(UserError, match="ckpt-12 is of step 12, .* end at step 6; raise train.epo"):
        make_trainer(tmp_path, "train.epochs=2")
