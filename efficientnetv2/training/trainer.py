"""The progressive trainer: a fresh step per stage, data handed in, nothing lost on the way."""

import math
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from efficientnetv2.from_config import build_from_config
from efficientnetv2.training.checkpoints import RunCheckpoint
from efficientnetv2.training.ema import WeightAverage
from efficientnetv2.training.evaluation import Evaluator
from efficientnetv2.training.optimizers import OfficialRMSprop
from efficientnetv2.training.run_log import Progress, RunLog, scores_line
from efficientnetv2.training.schedules import learning_rate_at
from efficientnetv2.training.steps import make_train_step
from hparams import Config, Stage, UserError

MakeDataset = Callable[[Stage, int], tf.data.Dataset]


class Trainer:
    """A run in `model_dir`: the same arguments resume where it stopped.

    `model` is for tests; by default the network that the config describes is built.
    `class_weights`, one per class, are for `data.class_balance=loss`, see `losses.make_loss`; they
    must follow from the data, so that a resumed run has the same.
    """

    def __init__(
        self,
        config: Config,
        stages: Sequence[Stage],
        model_dir: str,
        strategy: tf.distribute.Strategy,
        model: Callable[[], keras.Model] | None = None,
        class_weights: Sequence[float] | None = None,
    ):
        replicas = strategy.num_replicas_in_sync
        if config.train.batch_size % replicas:
            raise UserError(
                f"train.batch_size={config.train.batch_size} must be a multiple of the "
                f"{replicas} replicas"
            )
        if (config.data.class_balance == "loss") != (class_weights is not None):
            raise ValueError(
                f"data.class_balance={config.data.class_balance} with class_weights="
                f"{class_weights}; give weights with data.class_balance=loss, and only with it"
            )
        self.config, self.stages, self.strategy = config, stages, strategy
        self.model_dir, self.class_weights = model_dir, class_weights
        keras.utils.set_random_seed(config.train.seed)
        with strategy.scope():
            self.model = model() if model else build_from_config(config, replicas > 1)
            self.optimizer = OfficialRMSprop()
            self.optimizer.build(self.model.trainable_variables)
            decay = config.train.ema_decay
            self.average = WeightAverage(self.model, decay) if decay else None
        self.checkpoint = RunCheckpoint(
            model_dir, self.model, self.optimizer, self.average, config.runtime.keep_checkpoint_max
        )
        self.evaluator = Evaluator(
            strategy,
            self.model,
            config.eval.batch_size,
            config.train.loss_type,
            config.data.multiclass,
        )
        self.step = self.checkpoint.restore()

    def train(
        self,
        make_dataset: MakeDataset,
        make_eval_dataset: Callable[[], tf.data.Dataset] | None = None,
    ) -> dict[str, float]:
        """Trains from the step reached to the end of the last stage; returns the last record.

        `make_dataset(stage, first_step)` gives the batches of the rest of a stage;
        `make_eval_dataset()`, where given, is evaluated every `eval.every_epochs`.
        Raises: UserError when the loss is not finite; the last checkpoint is from before.
        """
        log, progress = RunLog(self.model_dir, self.step), Progress(self.stages)
        if self.step:
            progress.message(f"resuming at step {self.step} of {self.stages[-1].end_step}")
        for stage in self.stages:
            if self.step < stage.end_step:
                self._train_stage(stage, make_dataset, make_eval_dataset, log, progress)
        return log.last("train")

    def evaluate(self, dataset: tf.data.Dataset) -> dict[str, float | int]:
        """Evaluates the averaged weights (the raw ones if `train.ema_decay` is 0)."""
        if self.average is None:
            return self.evaluator(dataset)
        with self.average.in_model():
            return self.evaluator(dataset)

    def _train_stage(self, stage, make_dataset, make_eval_dataset, log, progress):
        set_dropout(self.model, stage.dropout_rate)
        train_step = make_train_step(
            self.strategy,
            self.model,
            self.optimizer,
            self.average,
            self.config,
            stage.batch_size,
            self.class_weights,
        )
        batches = self.strategy.experimental_distribute_dataset(make_dataset(stage, self.step))
        window = _Window(stage, progress)
        for features, labels in batches:
            rate = learning_rate_at(self.config, self.stages, self.step)
            self.optimizer.learning_rate = rate
            window.add(train_step(features, labels, tf.constant(self.step, tf.int64)))
            self.step += 1
            done = self.step == stage.end_step
            evaluate = make_eval_dataset is not None and self._ends_epochs()
            save = done or self.step % self.config.runtime.checkpoint_steps == 0
            if save or evaluate or self.step % self.config.runtime.log_step_count_steps == 0:
                values = window.close(self.step)
                log.record("train", self.step, stage.index, {**values, "learning_rate": rate})
            if evaluate:
                scores = self.evaluate(make_eval_dataset())
                log.record("eval", self.step, stage.index, scores)
                progress.message(
                    f"step {self.step}  evaluated {scores['examples']}:  {scores_line(scores)}"
                )
            if save:  # Last, so that a checkpoint's records are complete.
                self.checkpoint.save(self.step)
            if save or evaluate:
                progress.start_window()
            if done:
                return
        raise RuntimeError(f"the data of stage {stage.index + 1} ended at step {self.step}")

    def _ends_epochs(self) -> bool:
        """Whether the last step completed a multiple of `eval.every_epochs`, or the run."""
        images = self.config.data.splits.train.num_images * self.config.eval.every_epochs
        batch = self.config.train.batch_size
        crosses = self.step * batch // images > (self.step - 1) * batch // images
        return crosses or self.step == self.stages[-1].end_step


class _Window:
    """Loss and accuracy since the last log; reads the device only when closed."""

    def __init__(self, stage: Stage, progress: Progress):
        self.stage, self.progress = stage, progress
        self.results = []
        self.traced, self.timed_from = False, 0

    def add(self, result) -> None:
        self.results.append(result)
        if not self.traced:  # The first step is traced; it says nothing about speed.
            self.traced, self.timed_from = True, 1
            float(result[0])
            self.progress.start_window()

    def close(self, step: int) -> dict[str, float]:
        """Shows the progress; returns loss, accuracy and the stage's strengths.

        Raises: UserError if a loss was not finite.
        """
        losses = [float(loss) for loss, _ in self.results]
        images = len(losses) * self.stage.batch_size
        for index, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss is {loss} at step {step - len(losses) + index}; "
                    "lower train.lr_base or lengthen train.lr_warmup_epoch"
                )
        accuracy = sum(int(correct) for _, correct in self.results) / images
        loss = sum(losses) / len(losses)
        timed_images = (len(self.results) - self.timed_from) * self.stage.batch_size
        self.results, self.timed_from = [], 0
        speed = self.progress.update(self.stage, step, timed_images, loss, accuracy)
        return {
            "loss": loss,
            "accuracy": accuracy,
            "images_per_second": speed,
            "image_size": self.stage.image_size,
            "ram": self.stage.ram,
            "mixup_alpha": self.stage.mixup_alpha,
            "cutmix_alpha": self.stage.cutmix_alpha,
            "dropout_rate": self.stage.dropout_rate,
        }


def set_dropout(model: keras.Model, rate: float) -> None:
    """Sets the rate of the head's dropout, for steps that are traced after.

    Raises: ValueError if the rate is not in [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f"dropout rate must be in [0, 1), got {rate}")
    model.get_layer("head_dropout").rate = rate
