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


def predicted_classes(labels, logits):
    """The class that each example is taken for, in agreement with the top-1 hits.

    Shapes: float32 [B, K], [B, K] -> int32 [B]. A hit is taken for its own class, even where
    another has the same logit; what is no hit, for the largest of the others, NaN counting as
    larger than any number.
    """
    target = tf.argmax(labels, axis=-1, output_type=tf.int32)
    hit = single_label_rows(labels, logits)[0] > 0
    others = tf.where(tf.math.is_nan(logits), tf.float32.max, logits)
    others = tf.maximum(others, tf.float32.min / 2)  # The largest of nothing but -inf is another.
    others = tf.where(tf.one_hot(target, logits.shape[-1], True, False), tf.float32.min, others)
    return tf.where(hit, target, tf.argmax(others, axis=-1, output_type=tf.int32))


def count_pairs(labels, logits, weight):
    """Counts [label, class it is taken for], of examples whose weight is not 0.

    Shapes: float32 [B, K], float32 [B, K], float32 [B] -> int64 [K, K].
    """
    target = tf.argmax(labels, axis=-1, output_type=tf.int32)
    pairs = tf.stack([target, predicted_classes(labels, logits)], axis=-1)
    classes = logits.shape[-1]
    return tf.scatter_nd(pairs, tf.cast(weight > 0, tf.int64), [classes, classes])


def make_eval_step(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    loss_type: str = "softmax",
    curve: keras.metrics.AUC | None = None,
    confusion: tf.Variable | None = None,
):
    """Returns `eval_step(features, labels) -> (sums, logits)`; the sums are to be added up.

    `features` also holds "weight", float32 [B], 0 for rows that only pad a batch. `sums`: float32
    [4]: the loss (no smoothing, no weight decay, no class weights, and of the focal losses the
    plain ones), top-1 hits, top-5 hits, examples. `confusion`, int64 [K, K], gets the counts of
    `count_pairs` added.
    Where an image may have several labels, a `curve` is given: it is updated with the sigmoids of
    the logits, and `sums` are the loss and those of `multi_label_rows`, [8].
    `logits`: float32 [B, K], each replica's own rows.
    """
    loss_of = make_loss(loss_type, focal_gamma=0.0)
    rows_of = single_label_rows if curve is None else multi_label_rows

    def replica_step(features, labels):
        labels, weight = labels["label"], features["weight"]
        logits = tf.cast(model(features["image"], training=False), tf.float32)
        rows = tf.concat([loss_of(labels, logits)[tf.newaxis], rows_of(labels, logits)], axis=0)
        if curve is not None:
            scores = tf.nn.sigmoid(logits)
            scores = tf.where(tf.math.is_nan(scores), 0.0, scores)
            curve.update_state(labels > 0, scores, sample_weight=weight[:, tf.newaxis])
        if confusion is not None:
            confusion.assign_add(count_pairs(labels, logits, weight))
        return tf.reduce_sum(tf.where(weight > 0, rows, 0.0), axis=-1), logits

    @tf.function
    def eval_step(features, labels):
        sums, logits = strategy.run(replica_step, args=(features, labels))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None), logits

    return eval_step
