"""The loop of a run: steps, records, evaluations and checkpoints, and nothing lost on the way."""

import gc

import numpy as np

from efficientnetv2.training.guards import (
    NotFinite,
    StopRequested,
    StopSignals,
    TrainingStopped,
    not_finite_error,
)
from efficientnetv2.training.run_log import RunLog, scores_line
from efficientnetv2.training.schedules import learning_rate_at
from efficientnetv2.training.stage_steps import StageSteps
from efficientnetv2.training.window import Window
from hparams import Stage, UserError, stage_at

MOST_SKIPPED = 10  # Batches in one stage that `train.on_nan=rollback` skips.
ADVICE = (
    "lower train.lr_base, lengthen train.lr_warmup_epoch, or train.on_nan=rollback skips the batch"
)


class TrainingLoop:
    """Trains the run of a `Trainer` to its end, from its last checkpoint or from the start.

    All that is not in weights and optimizer is in the `extra` of each checkpoint: the number of
    records, the sums of the window, the selection, the steps to skip, and whether the evaluation
    after the step was still to be made.
    """

    def __init__(self, trainer, make_dataset, make_eval_dataset=None):
        self.trainer, self.config, self.stages = trainer, trainer.config, trainer.stages
        self.make_dataset, self.make_eval_dataset = make_dataset, make_eval_dataset
        self.workers, self.progress = trainer.workers, trainer.progress
        self.observers = trainer.observers if self.workers.is_chief else ()
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
                self._save()  # To have what to go back to.
            if self.evaluation_due:
                self._evaluate(stage_at(self.stages, trainer.step - 1))
            while trainer.step < end and not self.selection.is_over:
                try:
                    self._train_stage(stage_at(self.stages, trainer.step))
                except NotFinite as error:
                    self._go_back(error)
                gc.collect()  # Traced steps and iterators are in cycles.
            self.workers.gathered(trainer.step)  # None ends while another still writes.
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
        """Records, evaluates, saves and stops, where it is time to.

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
            for observer in self.observers:
                observer.logged(step, stage, values)

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
        confusion = trainer.evaluator.confusion  # All workers together read it.
        for observer in self.observers:
            observer.evaluated(step, stage, scores, confusion)
        line = f"step {step}  evaluated {scores['examples']}:  {scores_line(scores)}"
        self.progress.message(line)
        if self.selection.evaluated(step, scores, trainer.save_best):
            self.progress.message(
                f"stopping early: eval.patience={self.config.eval.patience} evaluations without a "
                f"better {self.config.eval.best_metric}"
            )
        self.window.start_timing()

    def _save(self) -> None:
        """Saves the step reached, unless it is saved. Raises: NotFinite; then nothing is saved."""
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
        """Takes over what a checkpoint knows; nothing of {}."""
        self.log.keep(extra.get("records", 0))
        self.window.restore(extra.get("window", {}))
        if "selection" in extra:
            self.selection.restore(extra["selection"])
        self.skipped.update(extra.get("skipped", ()))
        self.evaluation_due = extra.get("evaluation_due", False)

    def _go_back(self, error: NotFinite) -> None:
        """Returns to the last good checkpoint, from where the step of `error` is to be skipped.

        Raises: UserError if `train.on_nan` does not say so, or too many were skipped.
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
        """Whether the last step completed a multiple of `eval.every_epochs`, or the run."""
        step = self.trainer.step
        images = self.config.data.splits.train.num_images * self.config.eval.every_epochs
        crosses = stage.records_before(step) // images > stage.records_before(step - 1) // images
        return crosses or step == self.stages[-1].end_step

    def _show_batch(self, variant: Stage, features, labels) -> None:
        if self.observers:
            local = self.trainer.strategy.experimental_local_results
            images = np.concatenate(local(features["image"]))
            rows = np.concatenate(local(labels["label"]))
            for observer in self.observers:
                observer.stage_begins(variant, images, rows)
