"""One training step over the replicas of a strategy: noise, loss, gradients, update.

Dropout noise is a function of (seed, step, layer, position in the global batch).
"""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams import Config, Stage
from efficientnetv2.network.compat import all_layers, tf_variable
from efficientnetv2.network.layers import HeadDropout, StochasticDepth, noise_from
from efficientnetv2.training.ema import WeightAverage
from efficientnetv2.training.losses import make_loss
from efficientnetv2.training.optimizer import (
    Optimization,
    batch_norm_frozen,
    batch_norms,
    effective_jit,
    head_warmup_steps,
    statistics,
)


class StepNoise:
    """A `NoiseSource` for one step of one replica, or one micro-batch of its examples.

    A replica draws the noise of the whole global batch and takes its rows, so N replicas drop what
    one replica would; masks are small compared with activations. Noise is float32 at any precision,
    so rates are exact.
    """

    def __init__(self, seed: int, step: tf.Tensor, first_row: tf.Tensor, global_batch: int):
        self.seed, self.step = seed, step
        self.first_row, self.global_batch = first_row, global_batch

    def drop(self, x, rate: float, name: str):
        """Zeroes parts of `x`, see `efficientnetv2.network.layers.NoiseSource`."""
        per_row = [1] * (x.shape.rank - 1) if x.shape.rank == 4 else x.shape[1:].as_list()
        return _dropped(x, rate, self._uniform(name, per_row, tf.shape(x)[0]))

    def drawn(self, model: keras.Model, rows: int) -> dict[str, tf.Tensor]:
        """Returns the noise of all layers for `DrawnNoise`, float32 [rows, ...] by layer name."""
        shapes = {}
        for layer in all_layers(model):
            if isinstance(layer, StochasticDepth) and layer.rate:
                shapes[layer.name] = [1, 1, 1]
            elif isinstance(layer, HeadDropout) and layer.rate:
                shapes[layer.name] = list(layer.output.shape[1:])
        return {name: self._uniform(name, shape, rows) for name, shape in shapes.items()}

    def _uniform(self, name: str, per_row: list[int], rows):
        key = (self.seed << 32) + zlib.crc32(name.encode())
        seed = tf.stack([tf.constant(key, tf.int64), tf.cast(self.step, tf.int64)])
        noise = tf.random.stateless_uniform([self.global_batch, *per_row], seed)
        return noise[self.first_row : self.first_row + rows]


class DrawnNoise:
    """A `NoiseSource` with noise drawn in advance, since XLA would draw different numbers."""

    def __init__(self, numbers: dict[str, tf.Tensor]):
        self.numbers = numbers

    def drop(self, x, rate: float, name: str):
        """Zeroes parts of `x`, see `efficientnetv2.network.layers.NoiseSource`."""
        return _dropped(x, rate, self.numbers[name])


def _dropped(x, rate: float, noise):
    return tf.where(noise >= rate, x / tf.cast(1 - rate, x.dtype), tf.zeros([], x.dtype))


def make_gradients(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    optimization: Optimization,
    config: Config,
    batch_size: int,
    total_steps: int,
    class_weights: Sequence[float] | None = None,
    *,
    head_only: bool = False,
):
    """Returns `gradients_of(images, labels, step) -> (loss, correct, gradients)` of one replica.

    Shapes: uint8 [B / replicas, S, S, 3], float32 [B / replicas, K], int64 scalar. `gradients` are
    those of `optimization.weights(head_only)`; summed over the replicas, `loss` and `gradients` are
    those of the global batch.
    `train.accumulate_steps` is the number of micro-batches, processed one after the other, into
    which the examples are split; BatchNorm normalizes each of them separately. With
    `train.jit_compile` XLA compiles the function of a micro-batch.
    Raises: UserError for `train.jit_compile` with BatchNorm over several replicas.
    Source: official: L2 of weight_decay / 2 * |weight|^2 goes through the optimizer (coupled).
    """
    train, parts = config.train, config.train.accumulate_steps
    loss_of = make_loss(
        train.loss_type,
        smoothing=train.label_smoothing,
        class_weights=class_weights,
        multi_label=config.data.multiclass,
        focal_gamma=train.focal_gamma,
    )
    replicas = strategy.num_replicas_in_sync
    weights = [tf_variable(w) for w in optimization.weights(head_only)]
    all_learn = len(weights) == len(model.trainable_weights)
    loss_scale = optimization.loss_scale
    rows = batch_size // (replicas * parts)

    def part_of(images, labels, step, noise):
        with tf.GradientTape(watch_accessed_variables=all_learn) as tape:
            tape.watch([] if all_learn else weights)  # Frozen weights have no backward pass.
            with noise_from(noise):
                logits = tf.cast(model(images, training=True), tf.float32)
            # Gradients are summed over the replicas and the micro-batches.
            loss = tf.reduce_sum(loss_of(labels, logits)) / batch_size
            penalty = optimization.penalty(optimization.weight_decay_at(step, total_steps))
            if penalty is not None:
                loss += penalty / (replicas * parts)
            minimised = loss if loss_scale is None else loss * loss_scale.scale
        gradients = tape.gradient(minimised, weights, unconnected_gradients="zero")
        if loss_scale is not None:
            gradients = [gradient / loss_scale.scale for gradient in gradients]
        return loss, tf.reduce_sum(tf.cast(_best_is_right(labels, logits), tf.int64)), gradients

    part_of = _own_function(part_of, model, config, strategy, rows)

    def gradients_of(images, labels, step):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        first_row = replica * (batch_size // replicas)
        sums = ()
        for start in range(0, rows * parts, rows):
            noise = StepNoise(train.seed, step, first_row + start, batch_size)
            if parts == 1:
                return part_of(images, labels, step, noise)
            with tf.control_dependencies(tf.nest.flatten(sums)):  # One part in memory at a time.
                part = [x[start : start + rows] for x in (images, labels)]
                found = part_of(*part, step, noise)
                sums = tf.nest.map_structure(tf.add, sums, found) if sums else found
        return sums

    return gradients_of


def clipped(gradients: list, limit: float) -> list:
    """Clips gradients that are summed over the replicas to `train.gclip`; 0 disables clipping.

    Source: official order: each by its own norm, then all together by their global norm.
    Deviates: officially, replicas clip before the sum, so the effect depends on their number (D13).
    """
    if not limit:
        return gradients
    each = [tf.clip_by_norm(gradient, limit) for gradient in gradients]
    return tf.clip_by_global_norm(each, limit)[0]


def _own_function(part_of, model, config: Config, strategy: tf.distribute.Strategy, rows: int):
    """Wraps `part_of` in a `tf.function` to compile it, or to trace it once for several parts.

    BatchNorm over several replicas makes them wait for each other, which such a function cannot do.
    """
    waits = strategy.num_replicas_in_sync > 1 and any(
        layer.trainable and getattr(layer, "synchronized", False) for layer in batch_norms(model)
    )
    compiled = effective_jit(config, strategy)
    if compiled and waits:
        raise UserError(
            "train.jit_compile=true cannot compile BatchNorm over several replicas; drop it, or "
            "set train.freeze_bn=true or model.bn_type=gn"
        )
    if not compiled and (waits or config.train.accumulate_steps == 1):
        return part_of

    @tf.function(jit_compile=compiled or None, autograph=False)
    def function(images, labels, step, numbers):
        return part_of(images, labels, step, DrawnNoise(numbers))

    return lambda images, labels, step, noise: function(
        images, labels, step, noise.drawn(model, rows)
    )


def _best_is_right(labels, logits):
    """Returns whether the largest logit is at a largest label.

    Shapes: float32 [B, K], float32 [B, K] -> bool [B].
    """
    label = tf.gather(labels, tf.argmax(logits, axis=-1), batch_dims=1)
    return (label > 0) & (label == tf.reduce_max(labels, axis=-1))


class StepResult(NamedTuple):
    """The results of a step, on the device; the caller decides when to read them."""

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
    """Returns a new function `train_step(features, labels, step, learning_rate) -> StepResult`.

    Create one for every stage: a traced step keeps the drop rates it was traced with.
    `features`: {"image": uint8 [B, S, S, 3]}; `labels`: {"label": float32 [B, K]}; `step`: the
    number of updates made before. `correct` is the number of examples whose largest logit is at
    their largest label (any of several equal ones); an example without labels is never correct.
    `class_weights`: see `make_loss`. In the first `train.head_warmup_epoch` epochs only the
    classifier is trained: nothing else changes, BatchNorm statistics included.
    A float16 step whose gradients are not finite changes only the loss scale; it reports a gradient
    norm of 0 unless the scale cannot be lowered.
    Raises: UserError if the batch is not a multiple of replicas times micro-batches.
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

        @tf.function(autograph=False)  # No control flow on data; conversion is a third of tracing.
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
    """Sets the rate of the head's dropout for steps traced afterwards.

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
    """Returns gradients summed over all replicas and their global norm; call it in a replica."""
    context = tf.distribute.get_replica_context()
    gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    return gradients, tf.linalg.global_norm(gradients)


def _first(strategy, value):
    """Returns a value that is the same in all replicas."""
    return strategy.experimental_local_results(value)[0]


def _over_replicas(strategy, loss, correct, norm) -> StepResult:
    total = tf.distribute.ReduceOp.SUM
    return StepResult(
        strategy.reduce(total, loss, axis=None), strategy.reduce(total, correct, axis=None), norm
    )
