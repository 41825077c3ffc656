"""The progressive trainer: what a run is made of, and what can be done with it."""

import contextlib
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from efficientnetv2.from_config import build_from_config
from efficientnetv2.training.checkpoints import RunCheckpoint, has_checkpoint, save_weights
from efficientnetv2.training.ema import WeightAverage
from efficientnetv2.training.evaluation import Evaluator
from efficientnetv2.training.guards import TrainingStopped
from efficientnetv2.training.observer import Observer
from efficientnetv2.training.optimization import Optimization
from efficientnetv2.training.precision import policy_scope
from efficientnetv2.training.run_log import Progress
from efficientnetv2.training.selection import Selection
from efficientnetv2.training.stage_steps import Opened
from efficientnetv2.training.steps import make_train_step
from efficientnetv2.training.training_loop import TrainingLoop
from efficientnetv2.training.workers import Workers
from hparams import Config, Stage, UserError, stage_at

__all__ = ["Trainer", "TrainingStopped"]

MakeDataset = Callable[[Stage, int], tf.data.Dataset]


class Trainer:
    """A run in `model_dir`: the same arguments resume where it stopped.

    `step` is the number of steps made. Args:
        model: for tests; by default the network that the config describes is built.
        class_weights: one per class, for `data.class_balance=loss`, see `losses.make_loss`; they
            must follow from the data, so that a resumed run has the same.
        initialize: loads weights into the model of a run that has no checkpoint yet.
        observers: told of what happens, see `Observer`.
        describe_batch: (stage, step) -> names of the examples, to tell where a loss is no number.
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
        observers: Sequence[Observer] = (),
        describe_batch: Callable[[Stage, int], list[str]] | None = None,
    ):
        replicas = strategy.num_replicas_in_sync
        _check_batches(config, stages, replicas)
        _check_class_weights(config, class_weights)
        self.config, self.stages, self.strategy = config, stages, strategy
        self.model_dir, self.class_weights = model_dir, class_weights
        self.observers, self.describe_batch = observers, describe_batch
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
            confusion=bool(observers),
            workers=self.workers,
        )
        self.restore()

    def restore(self) -> None:
        """Goes back to the last good checkpoint, if there is one. Raises: UserError."""
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
        """Trains from the step reached to the end of the last stage; returns the last record.

        `make_dataset(stage, first_step)` gives the batches of the rest of a stage; of a variant,
        those of the steps that draw it; of several workers each gives its own rows of them, see
        `Workers.shard`. `make_eval_dataset()`, where given, is evaluated every `eval.every_epochs`.
        Raises: TrainingStopped after a signal to stop, once all is saved. UserError when a loss is
        not finite, see `train.on_nan`, or nothing can be written; checkpoints stay good.
        """
        return TrainingLoop(self, make_dataset, make_eval_dataset).run()

    def evaluate(
        self, dataset: tf.data.Dataset, inside: contextlib.AbstractContextManager | None = None
    ) -> dict[str, float | int]:
        """Evaluates the averaged weights (the raw ones if `train.ema_decay` is 0).

        It measures in the context `inside`, which may end it by an error: the weights are safe.
        """
        averaged = self.average.in_model() if self.average else contextlib.nullcontext()
        with averaged, inside or contextlib.nullcontext():
            return self.evaluator(dataset)

    def save_best(self, directory: str) -> None:
        """Writes the weights that `evaluate` measures, whole or not at all.

        `efficientnetv2.load_weights(model, directory)` reads them.
        """
        save_weights(directory, self.model, self.average, self.step)

    def first_record(self) -> int:
        """Training images that were seen so far."""
        last = self.stages[-1]
        stage = stage_at(self.stages, self.step) if self.step < last.end_step else last
        return stage.records_before(self.step)

    def open_variant(self, variant: Stage, step: int, dataset: tf.data.Dataset) -> Opened:
        """Returns the batches of `dataset` and a fresh train step, of a stage or a variant."""
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
