"""One evaluation step, over the replicas of a strategy."""

import keras
import tensorflow as tf

from efficientnetv2.training.losses import make_loss
from efficientnetv2.training.multilabel import multi_label_rows


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
