"""The loop of a run: variants, batches per stage, what is looked on, and what is let go."""

import dataclasses
import gc
import json
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_run

from efficientnetv2 import hparams
from efficientnetv2.common.errors import UserError
from efficientnetv2.network.compat import tf_variable
from efficientnetv2.training import trainer
from efficientnetv2.training.callbacks import Callback


def make_trainer(model_dir, overrides="", **more):
    config = tiny_run.make_config(overrides)
    return tiny_run.make_trainer(model_dir, config, model=tiny_run.make_quick_model, **more)


def records(model_dir, kind):
    lines = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def state(run):
    own = [tf_variable(weight) for weight in run.model.weights]
    own += [*run.optimization.variables.values(), *run.average.averages]
    return [variable.numpy() for variable in own]


class TestRandomSizes:
    """The schedule `random`: each step draws a size."""

    SETTINGS = "train.schedule=random,train.adaptive_regularization=true,train.stages=3"

    def test_each_step_is_made_with_the_batch_and_the_strengths_it_draws(self, tmp_path):
        asked, shown = [], []

        def make_batches(variant, first_step):
            asked.append((variant.image_size, first_step))
            return tiny_run.make_batches(variant, first_step)

        class Looking(Callback):
            def on_stage_begin(self, stage, images, labels):
                shown.append((stage.image_size, images.shape[1]))

        run = make_trainer(tmp_path, self.SETTINGS, callbacks=[Looking()])
        run.train(make_batches)
        (stage,) = run.stages
        drawn = [stage.variant_at(step) for step in range(12)]
        assert len(set(drawn)) == 3
        found = records(tmp_path, "train")
        assert [line["image_size"] for line in found] == [v.image_size for v in drawn]
        assert [line["dropout_rate"] for line in found] == [v.dropout_rate for v in drawn]
        # One data set and one sheet of each size, from the step that drew it first.
        sizes = [variant.image_size for variant in drawn]
        first = {size: sizes.index(size) for size in sizes}
        assert asked == list(first.items())
        assert shown == [(size, size) for size in first]

    def test_resumes_inside(self, tmp_path):
        whole = make_trainer(tmp_path / "whole", self.SETTINGS)
        whole.train(tiny_run.make_batches)
        cut = make_trainer(tmp_path / "cut", self.SETTINGS)
        stage, asked = cut.stages[0], []

        def failing(variant, first_step):
            batches = tiny_run.make_batches(variant, first_step)
            return batches.take(sum(variant.has_step(step) for step in range(first_step, 7)))

        with pytest.raises(RuntimeError, match="data of stage 1 ended at step 7"):
            cut.train(failing)
        again = make_trainer(tmp_path / "cut", self.SETTINGS)
        assert again.step == 6

        def make_batches(variant, first_step):
            asked.append(first_step)
            return tiny_run.make_batches(variant, first_step)

        again.train(make_batches)
        assert asked[0] == 6 and stage.variant_at(6).has_step(6)
        for mine, theirs in zip(state(again), state(whole), strict=True):
            np.testing.assert_array_equal(mine, theirs)


class TestBatchPerStage:
    """`train.stage_batch=memory`: small sizes have large batches."""

    SETTINGS = "train.stage_batch=memory,train.stages=2,data.ibase=16,train.epochs=8"

    def test_steps_images_and_epochs_follow_from_it(self, tmp_path):
        """24 images an epoch: 96 of each stage, 32 and 8 a batch."""
        run = make_trainer(tmp_path, f"{self.SETTINGS},eval.every_epochs=2,train.lr_sched=constant")
        assert [(s.batch_size, s.end_step) for s in run.stages] == [(32, 3), (8, 15)]
        assert run.first_record() == 0
        seen = []

        def make_batches(stage, first_step):
            def look(features, labels):
                seen.append(features["image"].shape[0])
                return features, labels

            return tiny_run.make_batches(stage, first_step).map(look)

        run.train(make_batches, tiny_run.make_examples)
        assert seen == [32, 8]
        # After 48, 96, 144 and 192 images.
        assert [line["step"] for line in records(tmp_path, "eval")] == [2, 3, 9, 15]
        rates = [line["learning_rate"] for line in records(tmp_path, "train")]
        assert rates[1] / rates[4] == pytest.approx(4)
        assert run.first_record() == 192

    def test_each_has_to_be_a_multiple_of_the_replicas(self, tmp_path):
        two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        config = tiny_run.make_config("train.stages=2")
        first, last = hparams.make_stages(config)
        stages = (dataclasses.replace(first, batch_size=9), last)
        with pytest.raises(
            UserError, match="batch of 9 of stage 1 must be a multiple of the 2 rep"
        ):
            trainer.Trainer(config, stages, str(tmp_path), two, model=tiny_run.make_quick_model)


class Counting(Callback):
    """Writes down what it is told."""

    def __init__(self):
        self.told = []

    def on_stage_begin(self, stage, images, labels):
        assert images.dtype == np.uint8 and labels.dtype == np.float32
        self.told.append(("begins", stage.index, images.shape, labels.shape))

    def on_log(self, step, stage, values):
        self.told.append(("logged", step, stage.index, sorted(values)))

    def on_evaluate(self, step, stage, scores, confusion):
        assert confusion.shape == (tiny_run.CLASSES,) * 2
        assert confusion.sum() == scores["examples"]
        self.told.append(("evaluated", step, stage.index, sorted(scores)))


@pytest.mark.parametrize("replicas", [1, 2])
def test_callbacks_are_told_what_happens_and_change_nothing(tmp_path, replicas):
    settings = "train.stages=2,runtime.log_step_count_steps=6,eval.every_epochs=2"
    strategy = tf.distribute.get_strategy()
    if replicas == 2:
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    counting = Counting()
    run = make_trainer(tmp_path / "seen", settings, strategy=strategy, callbacks=[counting])
    run.train(tiny_run.make_batches, tiny_run.make_examples)
    values = {"loss", "accuracy", "gradient_norm", "learning_rate", "image_size", "ram"}
    values |= {"images_per_second", "mixup_alpha", "cutmix_alpha", "dropout_rate"}
    scores = ["examples", "loss", "top1", "top5"]
    assert counting.told == [
        ("begins", 0, (8, 17, 17, 3), (8, 12)),
        ("logged", 6, 0, sorted(values)),
        ("evaluated", 6, 0, scores),
        ("begins", 1, (8, 32, 32, 3), (8, 12)),
        ("logged", 12, 1, sorted(values)),
        ("evaluated", 12, 1, scores),
    ]
    (first, last) = records(tmp_path / "seen", "train")
    assert set(first) == {"kind", "step", "stage", *values}
    assert first["gradient_norm"] > 0
    if replicas == 1:
        unseen = make_trainer(tmp_path / "unseen", settings)
        unseen.train(tiny_run.make_batches, tiny_run.make_examples)
        for mine, theirs in zip(state(run), state(unseen), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_the_gradient_norm_of_a_record_is_that_of_its_last_step(tmp_path):
    each = make_trainer(tmp_path / "each", "train.stages=1,train.epochs=2")
    each.train(tiny_run.make_batches)
    once = make_trainer(
        tmp_path / "once", "train.stages=1,train.epochs=2,runtime.log_step_count_steps=100"
    )
    once.train(tiny_run.make_batches)
    (one,) = records(tmp_path / "once", "train")
    all_of_them = records(tmp_path / "each", "train")
    for key in ("gradient_norm", "learning_rate"):
        assert one[key] == all_of_them[-1][key]
    assert one["loss"] == pytest.approx(np.mean([line["loss"] for line in all_of_them]), rel=1e-12)


def test_weights_to_start_from_are_loaded_once_and_before_the_average_is_made(tmp_path):
    calls = []

    def initialize(model):
        calls.append(model)
        for weight in model.weights:
            tf_variable(weight).assign(tf.fill(weight.shape, 0.5))

    run = make_trainer(tmp_path, "train.stages=1,train.epochs=1", initialize=initialize)
    assert calls == [run.model]
    for variable in (*map(tf_variable, run.model.weights), *run.average.averages):
        assert (variable.numpy() == 0.5).all()
    run.train(tiny_run.make_batches)
    again = make_trainer(tmp_path, "train.stages=1,train.epochs=1", initialize=initialize)
    assert len(calls) == 1
    for mine, theirs in zip(state(again), state(run), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_steps_and_data_of_a_stage_are_let_go_when_it_ends(tmp_path, monkeypatch):
    """A graph of each stage in memory is what grows from stage to stage."""
    from tensorflow.python.framework.func_graph import FuncGraph

    made, alive, graphs, open_variant = [], [], [], trainer.Trainer.open_variant

    def opening(self, variant, step, dataset):
        alive.append(sum(reference() is not None for reference in made))
        opened = open_variant(self, variant, step, dataset)
        made.extend(weakref.ref(part) for part in (opened.train_step, opened.batches))
        return opened

    def silu_model():
        model = tiny_run.make_quick_model()
        outputs = keras.layers.Activation("swish")(model.get_layer("stem_bn").output)
        outputs = model.get_layer("head_dropout")(keras.layers.GlobalMaxPooling2D()(outputs))
        return keras.Model(model.input, keras.layers.Dense(12, name="classifier")(outputs))

    class Counting(Callback):
        def on_stage_begin(self, stage, images, labels):
            found = [g for g in gc.get_objects() if isinstance(g, FuncGraph)]
            graphs.append(sum("traced" in graph.name for graph in found))

    gc.collect()
    monkeypatch.setattr(trainer.Trainer, "open_variant", opening)
    run = tiny_run.make_trainer(tmp_path, model=silu_model, callbacks=[Counting()])
    run.train(tiny_run.make_batches, tiny_run.make_examples)
    assert alive == [0, 0, 0, 0]
    assert graphs == graphs[:1] * 4  # Those of other tests.
