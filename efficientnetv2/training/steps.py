"""One training step, over the replicas of a strategy."""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from efficientnetv2.training.ema import WeightAverage
from efficientnetv2.training.gradients import clipped, make_gradients
from efficientnetv2.training.optimization import (
    Optimization,
    batch_norm_frozen,
    head_warmup_steps,
    statistics,
)
from hparams import Config, Stage, UserError


class StepResult(NamedTuple):
    """What a step says, on the device; the caller decides when to read it."""

    loss: tf.Tensor  # float32 scalar, the mean over the global batch, with coupled weight decay.
    correct: tf.Tensor  # int64 scalar.
    gradient_norm: tf.Tensor  # float32 scalar, summed over the replicas, before clipping.


def make_train_step(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    optimization: Optimization,
    average: WeightAverage | None,
    config: Config,
    stage: Stage,
    total_steps: int,
    class_weights: Sequence[float] | None = None,
):
    """Returns `train_step(features, labels, step, learning_rate) -> StepResult`, freshly traced.

    Make a new one for every stage: a traced step keeps the drop rates it was traced with.
    `features`: {"image": uint8 [B, S, S, 3]}; `labels`: {"label": float32 [B, K]}; `step`: the
    number of updates made before. `correct` is the number of examples whose largest logit is at
    their largest label, or at one of several such; none is right for an example without labels.
    `class_weights`: see `make_loss`. In the first `train.head_warmup_epoch` the classifier alone
    learns: nothing else moves, BatchNorm's statistics included.
    A step of float16 whose gradients are not finite changes nothing but the loss scale; it
    reports a gradient norm of 0 unless the scale cannot be lowered.
    Raises: UserError if the batch is not a multiple of the replicas times the parts of a step.
    """
    _check_batch(config, stage, strategy.num_replicas_in_sync)

    def make_traced(head_only: bool):
        gradients_of = make_gradients(
            strategy,
            model,
            optimization,
            config,
            stage.batch_size,
            total_steps,
            class_weights,
            head_only=head_only,
        )

        def update(gradients, step):
            decay = optimization.weight_decay_at(step, total_steps)
            optimization.apply(clipped(gradients, config.train.gclip), decay, head_only)
            if average is not None:
                average.update(step + 1)

        run = _run_scaled if optimization.loss_scale is not None else _run

        @tf.function
        def traced(features, labels, step, learning_rate):
            set_dropout(model, stage.dropout_rate)
            optimization.set_learning_rate(learning_rate)
            with batch_norm_frozen(model, head_only):
                inputs = features["image"], labels["label"], step
                return run(strategy, model, optimization, gradients_of, update, inputs)

        return traced

    warmup_steps = head_warmup_steps(config)
    whole = make_traced(head_only=False)
    head = make_traced(head_only=True) if warmup_steps else None

    def train_step(features, labels, step: int, learning_rate: float) -> StepResult:
        traced = head if step < warmup_steps else whole
        step_rate = tf.constant(learning_rate, tf.float32)
        return traced(features, labels, tf.constant(step, tf.int64), step_rate)

    return train_step


def set_dropout(model: keras.Model, rate: float) -> None:
    """Sets the rate of the head's dropout, for steps that are traced after.

    Raises: ValueError if the rate is not in [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f"dropout rate must be in [0, 1), got {rate}")
    model.get_layer("head_dropout").rate = rate


def _check_batch(config: Config, stage: Stage, replicas: int) -> None:
    parts = config.train.accumulate_steps
    if stage.batch_size % (replicas * parts):
        raise UserError(
            f"a batch of {stage.batch_size} must be a multiple of {replicas * parts}: {replicas} "
            f"replicas with train.accumulate_steps={parts}; change train.batch_size"
        )


def _run(strategy, model, optimization, gradients_of, update, inputs) -> StepResult:
    """Runs a step on all replicas."""

    def replica_step(images, labels, step):
        loss, correct, gradients = gradients_of(images, labels, step)
        gradients, norm = _summed(gradients)
        update(gradients, step)
        return loss, correct, norm

    loss, correct, norm = strategy.run(replica_step, args=inputs)
    return _over_replicas(strategy, loss, correct, _first(strategy, norm))


def _run_scaled(strategy, model, optimization, gradients_of, update, inputs) -> StepResult:
    """Runs a step whose loss is scaled; it updates nothing if a gradient is not finite."""
    moving, scale = statistics(model), optimization.loss_scale

    def backward(images, labels, step):
        before = [tf.identity(variable) for variable in moving]
        loss, correct, gradients = gradients_of(images, labels, step)
        return loss, correct, before, *_summed(gradients)

    def restore(before):
        for variable, value in zip(moving, before, strict=True):
            variable.assign(value)

    loss, correct, before, gradients, norm = strategy.run(backward, args=inputs)
    norm = _first(strategy, norm)
    finite = tf.math.is_finite(norm)
    tf.cond(
        finite,
        lambda: strategy.run(update, args=(gradients, inputs[-1])),
        lambda: strategy.run(restore, args=(before,)),
    )
    shown = tf.where(finite | (scale.scale <= scale.LEAST), norm, 0.0)
    scale.update(finite)
    return _over_replicas(strategy, loss, correct, shown)


def _summed(gradients):
    """In a replica: the sums of gradients over all replicas, and their global norm."""
    context = tf.distribute.get_replica_context()
    gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    return gradients, tf.linalg.global_norm(gradients)


def _first(strategy, value):
    """What is the same in all replicas."""
    return strategy.experimental_local_results(value)[0]


def _over_replicas(strategy, loss, correct, norm) -> StepResult:
    total = tf.distribute.ReduceOp.SUM
    return StepResult(
        strategy.reduce(total, loss, axis=None), strategy.reduce(total, correct, axis=None), norm
    )
