"""The progressive trainer: stages, steps, evaluations and checkpoints, with exact resume."""

import contextlib
import gc
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import ops

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams import Config, Stage, stage_at
from efficientnetv2.network.model import build_from_config
from efficientnetv2.training.callbacks import Callback
from efficientnetv2.training.checkpoint import (
    RunCheckpoint,
    Selection,
    has_checkpoint,
    save_weights,
)
from efficientnetv2.training.distribute import Workers
from efficientnetv2.training.ema import WeightAverage
from efficientnetv2.training.metrics import Evaluator
from efficientnetv2.training.optimizer import Optimization, learning_rate_at, policy_scope
from efficientnetv2.training.run_log import Progress, RunLog, scores_line
from efficientnetv2.training.signals import (
    NotFinite,
    StopRequested,
    StopSignals,
    TrainingStopped,
    not_finite_error,
)
from efficientnetv2.training.step import make_train_step

MOST_SKIPPED = 10  # Limit of batches per stage that `train.on_nan=rollback` skips.
ADVICE = (
    "lower train.lr_base, lengthen train.lr_warmup_epoch, or train.on_nan=rollback skips the batch"
)
MakeDataset = Callable[[Stage, int], tf.data.Dataset]


@contextlib.contextmanager
def gradients_forgotten() -> Iterator[None]:
    """Frees the gradient functions that TensorFlow retains after tracing a step.

    `tf.custom_gradient`, which TensorFlow's silu uses, registers a function at each call in a
    trace. It is never released, and neither is the graph, although the step does not use it again:
    without this context, memory grows by the size of a graph at each stage.
    """
    registry = ops.gradient_registry._registry
    before = len(registry)
    try:
        yield
    finally:
        for name in list(registry)[before:] if len(registry) > before else ():
            if name.startswith("CustomGradient-"):
                del registry[name]


class Window:
    """Loss, accuracy and gradient norm since the last record; read from the device on request.

    Values that were read are kept as sums, which a checkpoint saves, so a record does not depend on
    where a run was interrupted.
    """

    def __init__(self, progress: Progress):
        self.progress = progress
        self.restore({})

    def add(self, step: int, result, images: int, traced: bool) -> None:
        """Adds the `StepResult` of a step; `traced`: whether it was traced and is not timed."""
        self._results.append((step, images, result))
        self._timed_images += images
        if traced:
            float(result.loss)  # Waits for the step to finish.
            self.start_timing()

    def start_timing(self) -> None:
        """Restarts the speed measurement; call it after any work other than training."""
        self._timed_images = 0
        self.progress.start_window()

    def read(self) -> None:
        """Adds the device's results to the sums. Raises: NotFinite at the first non-finite one."""
        results, self._results = self._results, []
        for step, images, result in results:
            loss, norm = float(result.loss), float(result.gradient_norm)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise NotFinite(step, loss, norm)
            self._sums["steps"] += 1
            self._sums["loss"] += loss
            self._sums["correct"] += int(result.correct)
            self._sums["images"] += images
            self._sums["gradient_norm"] = norm

    def close(self, stage: Stage, step: int) -> dict[str, float | None] | None:
        """Shows the progress and resets; returns the means, or None if there were no steps.

        `stage`: the variant drawn by the last step. Raises: NotFinite as `read` does.
        """
        self.read()
        sums, timed = self._sums, self._timed_images
        self._sums = _nothing()
        if not sums["steps"]:
            return None
        loss, accuracy = sums["loss"] / sums["steps"], sums["correct"] / sums["images"]
        speed = self.progress.update(stage, step, timed, loss, accuracy)
        self._timed_images = 0
        return {
            "loss": loss,
            "accuracy": accuracy,
            "gradient_norm": sums["gradient_norm"],
            "images_per_second": speed,
            "image_size": stage.image_size,
            "ram": stage.ram,
            "mixup_alpha": stage.mixup_alpha,
            "cutmix_alpha": stage.cutmix_alpha,
            "dropout_rate": stage.dropout_rate,
        }

    def state(self) -> dict:
        """Returns the sums, for JSON, which preserves floats exactly; call `read` first."""
        return dict(self._sums)

    def restore(self, state: dict) -> None:
        """Restores a value returned by `state`; {} resets all sums to 0."""
        self._sums = {**_nothing(), **state}
        self._results = []
        self.start_timing()


def _nothing() -> dict:
    return {"steps": 0, "loss": 0.0, "correct": 0, "images": 0, "gradient_norm": 0.0}


class Opened(NamedTuple):
    """The batches and the train step of a stage or of a variant of one."""

    batches: Iterator
    train_step: Callable


class StageSteps:
    """The train step and batches of a stage; each variant has its own, opened at its first draw.

    `open_variant(variant, step)` returns both, for the steps from `step` on.
    """

    def __init__(self, stage: Stage, open_variant: Callable[[Stage, int], Opened]):
        self.stage, self._open = stage, open_variant
        self._opened: dict[Stage, Opened] = {}
        self._made: set[Stage] = set()

    def is_new(self, step: int) -> bool:
        """Returns whether a step is the first of its variant since this object was created."""
        return self.stage.variant_at(step) not in self._opened

    def next_batch(self, step: int):
        """Returns (features, labels) of a step; call it for each, in order.

        Raises: RuntimeError if the data is exhausted.
        """
        variant = self.stage.variant_at(step)
        if self.is_new(step):
            self._opened[variant] = self._open(variant, step)
        batch = next(self._opened[variant].batches, None)
        if batch is None:
            raise RuntimeError(f"the data of stage {self.stage.index + 1} ended at step {step}")
        return batch

    def make(self, step: int, batch, learning_rate: float):
        """Runs a step; returns its `StepResult` and whether it had to be traced first."""
        variant = self.stage.variant_at(step)
        traced = variant not in self._made
        self._made.add(variant)
        with gradients_forgotten():
            return self._opened[variant].train_step(*batch, step, learning_rate), traced


class TrainingLoop:
    """Trains the run of a `Trainer` to completion, from its last checkpoint or from the start.

    State other than weights and optimizer is in the `extra` of each checkpoint: the number of
    records, the sums of the window, the selection, the steps to skip, and whether the evaluation
    after the step is still due.
    """

    def __init__(self, trainer, make_dataset, make_eval_dataset=None):
        self.trainer, self.config, self.stages = trainer, trainer.config, trainer.stages
        self.make_dataset, self.make_eval_dataset = make_dataset, make_eval_dataset
        self.workers, self.progress = trainer.workers, trainer.progress
        self.callbacks = trainer.callbacks if self.workers.is_chief else ()
        self.log = RunLog(trainer.folder)
        self.window = Window(self.progress)
        self.selection, self.signals = trainer.selection, StopSignals()
        self.skipped: set[int] = set()
        self._load(trainer.checkpoint.extra)

    def run(self) -> dict:
        """Trains; returns the last record of training. Raises: as `Trainer.train`."""
        trainer, end = self.trainer, self.stages[-1].end_step
        if trainer.step:
            self.progress.message(f"resuming at step {trainer.step} of {end}")
        with self.signals:
            if self.config.train.on_nan == "rollback" and trainer.checkpoint.newest is None:
                self._save()  # A checkpoint to roll back to.
            if self.evaluation_due:
                self._evaluate(stage_at(self.stages, trainer.step - 1))
            while trainer.step < end and not self.selection.is_over:
                try:
                    self._train_stage(stage_at(self.stages, trainer.step))
                except NotFinite as error:
                    self._go_back(error)
                gc.collect()  # Traced steps and iterators are in reference cycles.
            self.workers.gathered(trainer.step)  # No worker ends while another still writes.
        return self.log.last("train")

    def _train_stage(self, stage: Stage) -> None:
        trainer = self.trainer

        def opened(variant, step):
            return trainer.open_variant(variant, step, self.make_dataset(variant, step))

        steps = StageSteps(stage, opened)
        while trainer.step < stage.end_step and not self.selection.is_over:
            step = trainer.step
            is_new, batch = steps.is_new(step), steps.next_batch(step)
            if is_new:
                self._show_batch(stage.variant_at(step), *batch)
            if step not in self.skipped:
                rate = learning_rate_at(self.config, self.stages, step)
                result, traced = steps.make(step, batch, rate)
                self.window.add(step, result, stage.batch_size, traced)
            trainer.step += 1
            self._after_step(stage)

    def _after_step(self, stage: Stage) -> None:
        """Records, evaluates, saves and stops when each is due.

        Saving comes last, so that the records of a checkpoint are complete.
        """
        step, runtime = self.trainer.step, self.config.runtime
        done = step == stage.end_step
        evaluates = self.make_eval_dataset is not None and self._ends_epochs(stage)
        if done or evaluates or step % runtime.log_step_count_steps == 0:
            self._record(stage)
        if evaluates:
            self._evaluate(stage)
        if self.workers.all_stop(step, self.signals.requested):
            self._stop()
        if done or self.selection.is_over or step % runtime.checkpoint_steps == 0:
            self._save()

    def _record(self, stage: Stage) -> None:
        last, step = self.trainer.step - 1, self.trainer.step
        values = self.window.close(stage.variant_at(last), step)
        if values is not None:
            values["learning_rate"] = learning_rate_at(self.config, self.stages, last)
            self.log.record("train", step, stage.index, values)
            for callback in self.callbacks:
                callback.on_log(step, stage, values)

    def _evaluate(self, stage: Stage) -> None:
        trainer, step = self.trainer, self.trainer.step
        self.evaluation_due = True
        try:
            inside = self.workers.breaking_off(self.signals)
            scores = trainer.evaluate(self.make_eval_dataset(), inside)
        except StopRequested:
            self._stop()
        self.evaluation_due = False
        self.log.record("eval", step, stage.index, scores)
        confusion = trainer.evaluator.confusion  # All workers must read it together.
        for callback in self.callbacks:
            callback.on_evaluate(step, stage, scores, confusion)
        line = f"step {step}  evaluated {scores['examples']}:  {scores_line(scores)}"
        self.progress.message(line)
        if self.selection.evaluated(step, scores, trainer.save_best):
            self.progress.message(
                f"stopping early: eval.patience={self.config.eval.patience} evaluations without a "
                f"better {self.config.eval.best_metric}"
            )
        self.window.start_timing()

    def _save(self) -> None:
        """Saves the current step unless already saved. Raises: NotFinite; nothing is then saved."""
        self.window.read()
        if self.trainer.checkpoint.newest == self.trainer.step:
            return
        extra = {
            "records": self.log.count,
            "window": self.window.state(),
            "selection": self.selection.state(),
            "skipped": sorted(self.skipped),
            "evaluation_due": self.evaluation_due,
        }
        self.trainer.checkpoint.save(self.trainer.step, extra)
        self.window.start_timing()

    def _stop(self) -> None:
        self._save()
        raise TrainingStopped(self.trainer.step)

    def _load(self, extra: dict) -> None:
        """Restores the `extra` of a checkpoint; {} if there is no checkpoint."""
        self.log.keep(extra.get("records", 0))
        self.window.restore(extra.get("window", {}))
        if "selection" in extra:
            self.selection.restore(extra["selection"])
        self.skipped.update(extra.get("skipped", ()))
        self.evaluation_due = extra.get("evaluation_due", False)

    def _go_back(self, error: NotFinite) -> None:
        """Rolls back to the last good checkpoint; the step of `error` will then be skipped.

        Raises: UserError if `train.on_nan` is "stop", or too many batches were skipped.
        """
        trainer, step = self.trainer, error.step
        stage = stage_at(self.stages, step)
        if self.config.train.on_nan == "stop":
            raise self._told(error, ADVICE) from error
        here = sum(stage.first_step <= other < stage.end_step for other in self.skipped)
        if here >= MOST_SKIPPED:
            raise self._told(error, f"{here} batches of this stage were skipped before") from error
        self.skipped.add(step)
        trainer.restore()
        self._load(trainer.checkpoint.extra)
        self.progress.message(f"{error} at step {step}: skipping it, from step {trainer.step} on")

    def _told(self, error: NotFinite, advice: str) -> UserError:
        trainer, stage = self.trainer, stage_at(self.stages, error.step)
        describe = trainer.describe_batch
        return not_finite_error(
            error,
            rate=learning_rate_at(self.config, self.stages, error.step),
            examples=describe(stage.variant_at(error.step), error.step) if describe else [],
            checkpoint=trainer.checkpoint.path,
            advice=advice,
        )

    def _ends_epochs(self, stage: Stage) -> bool:
        """Returns whether the last step completed a multiple of `eval.every_epochs`, or the run."""
        step = self.trainer.step
        images = self.config.data.splits.train.num_images * self.config.eval.every_epochs
        crosses = stage.records_before(step) // images > stage.records_before(step - 1) // images
        return crosses or step == self.stages[-1].end_step

    def _show_batch(self, variant: Stage, features, labels) -> None:
        if self.callbacks:
            local = self.trainer.strategy.experimental_local_results
            images = np.concatenate(local(features["image"]))
            rows = np.concatenate(local(labels["label"]))
            for callback in self.callbacks:
                callback.on_stage_begin(variant, images, rows)


class Trainer:
    """A run in `model_dir`; with the same arguments, it resumes where it stopped.

    `step` is the number of completed steps.

    Args:
        model: builds the model, for tests; by default the network of the config is built.
        class_weights: one per class, for `data.class_balance=loss`, see `losses.make_loss`; they
            must be derived from the data, so that a resumed run has the same.
        initialize: loads weights into the model of a run that has no checkpoint yet.
        callbacks: see `Callback`.
        describe_batch: (stage, step) -> names of the examples, to report a non-finite loss.
    """

    def __init__(
        self,
        config: Config,
        stages: Sequence[Stage],
        model_dir: str,
        strategy: tf.distribute.Strategy,
        model: Callable[[], keras.Model] | None = None,
        class_weights: Sequence[float] | None = None,
        initialize: Callable[[keras.Model], None] | None = None,
        callbacks: Sequence[Callback] = (),
        describe_batch: Callable[[Stage, int], list[str]] | None = None,
    ):
        replicas = strategy.num_replicas_in_sync
        _check_batches(config, stages, replicas)
        _check_class_weights(config, class_weights)
        self.config, self.stages, self.strategy = config, stages, strategy
        self.model_dir, self.class_weights = model_dir, class_weights
        self.callbacks, self.describe_batch = callbacks, describe_batch
        self.workers = Workers(strategy)
        self.folder = self.workers.folder(model_dir)  # Where this worker writes.
        self.progress = Progress(stages, self.workers.stream)
        self.selection = Selection(config, self.folder)
        keras.utils.set_random_seed(config.train.seed)
        with strategy.scope():
            with policy_scope(config.train.precision):
                self.model = model() if model else build_from_config(config, replicas > 1)
            if initialize is not None and not has_checkpoint(model_dir):
                initialize(self.model)
            self.optimization = Optimization(config, self.model)
            decay = config.train.ema_decay
            self.average = WeightAverage(self.model, decay) if decay else None
        self.checkpoint = RunCheckpoint(
            model_dir,
            self.model,
            self.optimization.variables,
            self.average,
            config.runtime.keep_checkpoint_max,
            self.folder,
        )
        self.evaluator = Evaluator(
            strategy,
            self.model,
            config.eval.batch_size,
            config.train.loss_type,
            config.data.multiclass,
            confusion=bool(callbacks),
            workers=self.workers,
        )
        self.restore()

    def restore(self) -> None:
        """Restores the last good checkpoint, if there is one. Raises: UserError."""
        self.step = self.checkpoint.restore(self.progress.message)
        self.workers.check_same("last checkpoints", self.step)
        end = self.stages[-1].end_step
        if self.step > end:
            raise UserError(
                f"{self.checkpoint.path} is of step {self.step}, but these settings end at step "
                f"{end}; raise train.epochs or use another --model_dir"
            )

    def train(
        self,
        make_dataset: MakeDataset,
        make_eval_dataset: Callable[[], tf.data.Dataset] | None = None,
    ) -> dict[str, float]:
        """Trains from the current step to the end of the last stage; returns the last record.

        `make_dataset(stage, first_step)` returns the batches of a stage from `first_step` on; for a
        variant, those of the steps that draw it; with several workers, this worker's rows, see
        `Workers.shard`. `make_eval_dataset()`, if given, is evaluated every `eval.every_epochs`.
        Raises: TrainingStopped after a stop signal, once all is saved. UserError if a loss is not
        finite, see `train.on_nan`, or files cannot be written; checkpoints stay intact.
        """
        return TrainingLoop(self, make_dataset, make_eval_dataset).run()

    def evaluate(
        self, dataset: tf.data.Dataset, inside: contextlib.AbstractContextManager | None = None
    ) -> dict[str, float | int]:
        """Evaluates the averaged weights (the raw ones if `train.ema_decay` is 0).

        It runs in the context `inside`, which may interrupt it with an exception: the model's
        weights are restored in any case.
        """
        averaged = self.average.in_model() if self.average else contextlib.nullcontext()
        with averaged, inside or contextlib.nullcontext():
            return self.evaluator(dataset)

    def save_best(self, directory: str) -> None:
        """Writes the weights that `evaluate` uses, completely or not at all.

        `efficientnetv2.load_weights(model, directory)` reads them.
        """
        save_weights(directory, self.model, self.average, self.step)

    def first_record(self) -> int:
        """Returns the number of training images seen so far."""
        last = self.stages[-1]
        stage = stage_at(self.stages, self.step) if self.step < last.end_step else last
        return stage.records_before(self.step)

    def open_variant(self, variant: Stage, step: int, dataset: tf.data.Dataset) -> Opened:
        """Returns the batches of `dataset` and a new train step, for a stage or a variant."""
        batches = iter(self.workers.distribute(dataset))
        train_step = make_train_step(
            self.strategy,
            self.model,
            self.optimization,
            self.average,
            self.config,
            variant,
            self.stages[-1].end_step,
            self.class_weights,
        )
        return Opened(batches, train_step)


def _check_batches(config: Config, stages: Sequence[Stage], replicas: int) -> None:
    for stage in stages:
        if stage.batch_size % replicas:
            raise UserError(
                f"the batch of {stage.batch_size} of stage {stage.index + 1} must be a multiple of "
                f"the {replicas} replicas; change train.batch_size={config.train.batch_size}"
            )


def _check_class_weights(config: Config, class_weights: Sequence[float] | None) -> None:
    if (config.data.class_balance == "loss") != (class_weights is not None):
        raise ValueError(
            f"data.class_balance={config.data.class_balance} with class_weights="
            f"{class_weights}; give weights with data.class_balance=loss, and only with it"
        )
