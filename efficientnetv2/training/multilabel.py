"""What an evaluation measures where an image may have any number of labels, or none."""

import numpy as np
import tensorflow as tf

from hparams import UserError

BEST = 5
NAMES = ("hit_at_1", "hit_at_5", "precision_at_1", "precision_at_5", "recall_at_1", "recall_at_5")


def multi_label_rows(labels, logits):
    """Of each example, what `multi_label_scores` needs the sums of.

    Shapes: float32 [B, K] of 0 and 1, float32 [B, K] -> float32 [7, B]: whether a label is the
    best class; whether one is among the five best; labels among these; labels; whether there is
    any; the number of the best (five, or K if that is less); 1.
    An example with a logit that is NaN has no hit.
    """
    best = min(BEST, logits.shape[-1])
    present = tf.cast(labels > 0, tf.float32)
    comparable = tf.reduce_all(tf.logical_not(tf.math.is_nan(logits)), axis=-1, keepdims=True)
    classes = tf.math.top_k(tf.where(comparable, logits, 0.0), best).indices
    found = tf.gather(present, classes, batch_dims=1) * tf.cast(comparable, tf.float32)
    found_count = tf.reduce_sum(found, axis=-1)
    count = tf.reduce_sum(present, axis=-1)
    ones = tf.ones_like(count)
    return tf.stack(
        [
            found[:, 0],
            tf.cast(found_count > 0, tf.float32),
            found_count,
            count,
            tf.cast(count > 0, tf.float32),
            ones * best,
            ones,
        ]
    )


def multi_label_scores(sums: np.ndarray) -> dict[str, float]:
    """Returns hit, precision and recall at 1 and at 5, as shares in [0, 1], by name.

    `sums`: [7] of `multi_label_rows` over the examples. One without labels counts in the precision
    alone: whatever is said of it is wrong.
    Raises: UserError if no example has a label.
    Source: official (`tf.metrics.precision_at_k`, `recall_at_k`, over all examples together).
    Deviates: there an example without labels counts as one of class 0.
    """
    first, any_found, found, labels, labelled, best, examples = map(float, sums)
    if not labelled:
        raise UserError(
            "no example of the evaluation split has a label; check the data set's labels"
        )
    values = (
        first / labelled,
        any_found / labelled,
        first / examples,
        found / best,
        first / labels,
        found / labels,
    )
    return dict(zip(NAMES, values, strict=True))
