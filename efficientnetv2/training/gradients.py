"""Loss and gradients of one replica's share of a batch."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from efficientnetv2.compat import tf_variable
from efficientnetv2.noise import noise_from
from efficientnetv2.training.losses import make_loss
from efficientnetv2.training.optimization import Optimization, batch_norms
from efficientnetv2.training.precision import effective_jit
from efficientnetv2.training.step_noise import DrawnNoise, StepNoise
from hparams import Config, UserError


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

    Shapes: uint8 [B / replicas, S, S, 3], float32 [B / replicas, K], int64 scalar. `loss` and
    `gradients`, of `optimization.weights(head_only)`, are the replica's share: the sums over the
    replicas are those of the global batch.
    With `train.accumulate_steps` the examples go through in so many parts, one after the other,
    each of which BatchNorm normalises by itself. With `train.jit_compile` XLA compiles a part.
    Raises: UserError for `train.jit_compile` where BatchNorm is over several replicas.
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
            tape.watch([] if all_learn else weights)  # What is frozen has no backward pass.
            with noise_from(noise):
                logits = tf.cast(model(images, training=True), tf.float32)
            # Gradients are summed over the replicas and the parts.
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
            with tf.control_dependencies(tf.nest.flatten(sums)):  # One part's memory at a time.
                part = [x[start : start + rows] for x in (images, labels)]
                found = part_of(*part, step, noise)
                sums = tf.nest.map_structure(tf.add, sums, found) if sums else found
        return sums

    return gradients_of


def clipped(gradients: list, limit: float) -> list:
    """Clips gradients that are summed over the replicas, by `train.gclip`; 0: not at all.

    Source: official order: each to the norm, then all together to the global norm.
    Deviates: there replicas clip before the sum, so that the effect depends on their number (D13).
    """
    if not limit:
        return gradients
    each = [tf.clip_by_norm(gradient, limit) for gradient in gradients]
    return tf.clip_by_global_norm(each, limit)[0]


def _own_function(part_of, model, config: Config, strategy: tf.distribute.Strategy, rows: int):
    """`part_of` as a function of its own where it is compiled, or traced once for several parts.

    BatchNorm over several replicas has them wait for each other, which no such function can.
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

    @tf.function(jit_compile=compiled or None)
    def function(images, labels, step, numbers):
        return part_of(images, labels, step, DrawnNoise(numbers))

    return lambda images, labels, step, noise: function(
        images, labels, step, noise.drawn(model, rows)
    )


def _best_is_right(labels, logits):
    """Whether the largest logit is at a largest label. float32 [B, K], [B, K] -> bool [B]."""
    label = tf.gather(labels, tf.argmax(logits, axis=-1), batch_dims=1)
    return (label > 0) & (label == tf.reduce_max(labels, axis=-1))
