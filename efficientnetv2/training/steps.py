"""One training step and one evaluation step, over the replicas of a strategy."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from efficientnetv2.compat import tf_variable, var_path
from efficientnetv2.noise import noise_from
from efficientnetv2.training.ema import WeightAverage
from efficientnetv2.training.losses import make_loss
from efficientnetv2.training.multilabel import multi_label_rows
from efficientnetv2.training.step_noise import StepNoise
from hparams import Config


def decayed_weights(model: keras.Model) -> list[tf.Variable]:
    """The weights under weight decay: kernels, neither biases nor BatchNorm's. Source: official."""
    kernels = [w for w in model.trainable_weights if var_path(w).endswith("kernel")]
    return [tf_variable(w) for w in kernels]


def make_train_step(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    average: WeightAverage | None,
    config: Config,
    batch_size: int,
    class_weights: Sequence[float] | None = None,
):
    """Returns `train_step(features, labels, step) -> (loss, correct)`, freshly traced.

    Make a new one for every stage: a traced step keeps the drop rates it was traced with.
    `features`: {"image": uint8 [B, S, S, 3]}; `labels`: {"label": float32 [B, K]}; `step`: int64
    scalar, the number of updates made before. `loss` is the mean over the global batch with weight
    decay, `correct` the number of examples whose largest logit is at their largest label, or at one
    of several such; none is right for an example without labels. `class_weights`: see `make_loss`.
    Source: official: L2 of weight_decay / 2 * |kernel|^2 goes through the optimizer (coupled).
    """
    train = config.train
    loss_of = make_loss(
        train.loss_type,
        smoothing=train.label_smoothing,
        class_weights=class_weights,
        multi_label=config.data.multiclass,
    )
    kernels = decayed_weights(model)
    replicas = strategy.num_replicas_in_sync

    def replica_step(features, labels, step):
        images, labels = features["image"], labels["label"]
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        noise = StepNoise(train.seed, step, replica * (batch_size // replicas), batch_size)
        with tf.GradientTape() as tape:
            with noise_from(noise):
                logits = tf.cast(model(images, training=True), tf.float32)
            losses = loss_of(labels, logits)
            decay = train.weight_decay * tf.add_n([tf.nn.l2_loss(kernel) for kernel in kernels])
            # Gradients are summed over the replicas.
            loss = tf.reduce_sum(losses) / batch_size + decay / replicas
        weights = model.trainable_weights
        gradients = tape.gradient(loss, [tf_variable(w) for w in weights])
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        if average is not None:
            average.update(step + 1)
        return loss, tf.reduce_sum(tf.cast(_best_is_right(labels, logits), tf.int64))

    @tf.function
    def train_step(features, labels, step):
        loss, correct = strategy.run(replica_step, args=(features, labels, step))
        total = tf.distribute.ReduceOp.SUM
        return strategy.reduce(total, loss, axis=None), strategy.reduce(total, correct, axis=None)

    return train_step


def _best_is_right(labels, logits):
    """Whether the largest logit is at a largest label. float32 [B, K], [B, K] -> bool [B]."""
    label = tf.gather(labels, tf.argmax(logits, axis=-1), batch_dims=1)
    return (label > 0) & (label == tf.reduce_max(labels, axis=-1))


def single_label_rows(labels, logits):
    """Of each example: top-1 hit, top-5 hit, 1. float32 [B, K], [B, K] -> float32 [3, B]."""
    target = tf.argmax(labels, axis=-1, output_type=tf.int32)
    own = tf.gather(logits, target, batch_dims=1)[:, tf.newaxis]
    # NaN compares false, so it counts as larger: an example without finite logits is no hit.
    # (TensorFlow rewrites ~(a <= b) as a > b, which is not the same for NaN.)
    rank = logits.shape[-1] - tf.reduce_sum(tf.cast(logits <= own, tf.int32), axis=-1)
    top1, top5 = tf.cast(rank < 1, tf.float32), tf.cast(rank < 5, tf.float32)
    return tf.stack([top1, top5, tf.ones_like(top1)])


def make_eval_step(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    loss_type: str = "softmax",
    curve: keras.metrics.AUC | None = None,
):
    """Returns `eval_step(features, labels) -> sums`, to add up over batches.

    `features` also holds "weight", float32 [B], 0 for rows that only pad a batch. `sums`: float32
    [4]: the loss (no smoothing, no weight decay, no class weights), top-1 hits, top-5 hits,
    examples. Where an image may have several labels, a `curve` is given: it is updated with the
    sigmoids of the logits, and `sums` are the loss and those of `multi_label_rows`, [8].
    """
    loss_of = make_loss(loss_type)
    rows_of = single_label_rows if curve is None else multi_label_rows

    def replica_step(features, labels):
        labels, weight = labels["label"], features["weight"]
        logits = tf.cast(model(features["image"], training=False), tf.float32)
        rows = tf.concat([loss_of(labels, logits)[tf.newaxis], rows_of(labels, logits)], axis=0)
        if curve is not None:
            scores = tf.nn.sigmoid(logits)
            scores = tf.where(tf.math.is_nan(scores), 0.0, scores)
            curve.update_state(labels > 0, scores, sample_weight=weight[:, tf.newaxis])
        return tf.reduce_sum(tf.where(weight > 0, rows, 0.0), axis=-1)

    @tf.function
    def eval_step(features, labels):
        sums = strategy.run(replica_step, args=(features, labels))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    return eval_step
