"""Evaluation: every example once, whatever the batch size and the number of replicas."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.training.distribute import Workers
from efficientnetv2.training.losses import make_loss
from efficientnetv2.training.run_log import Counter

BEST = 5
NAMES = ("hit_at_1", "hit_at_5", "precision_at_1", "precision_at_5", "recall_at_1", "recall_at_5")
THRESHOLDS = 200  # Of the precision-recall curve. Source: official.
MOST_CLASSES = 1000  # Of a confusion matrix: it has their square.
Watch = Callable[[np.ndarray, np.ndarray, np.ndarray], None]


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

    @tf.function(autograph=False)
    def eval_step(features, labels):
        sums, logits = strategy.run(replica_step, args=(features, labels))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None), logits

    return eval_step


class Evaluator:
    """Measures a model on data sets; traces its step once.

    `loss_type` as in `train.loss_type`; `multi_label`: whether an image may have any number of
    labels, as `data.multiclass` says; `confusion`: whether to count what is taken for what.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        batch_size: int,
        loss_type: str = "softmax",
        multi_label: bool = False,
        confusion: bool = False,
        workers: Workers | None = None,
    ):
        replicas = strategy.num_replicas_in_sync
        self.strategy, self.workers = strategy, workers or Workers(strategy)
        self.batch_size = -(-batch_size // replicas) * replicas
        self.curve = self._counts = None
        classes = model.output_shape[-1]
        with strategy.scope():
            if multi_label:
                self.curve = keras.metrics.AUC(THRESHOLDS, curve="PR")
            elif confusion and classes <= MOST_CLASSES:
                self._counts = _summed_over_replicas([classes, classes])
        self.step = make_eval_step(strategy, model, loss_type, self.curve, self._counts)

    @property
    def confusion(self) -> np.ndarray | None:
        """Of the last evaluation: int64 [K, K], the examples of class [row] taken for [column].

        An example counts as `predicted_classes` says, so the diagonal's sum is the
        number of top-1 hits. None if it was not asked for, with several labels per example, or
        for more than `MOST_CLASSES` classes.
        """
        return None if self._counts is None else self._counts.read_value().numpy()

    def __call__(
        self, dataset: tf.data.Dataset, watch: Watch | None = None
    ) -> dict[str, float | int]:
        """Returns loss (a mean, without smoothing), scores (shares in [0, 1]) and examples.

        `dataset`: unbatched ({"image"}, {"label"}) examples, image uint8 or float [S, S, 3],
        label float32 [K]. The scores are top1 and top5, which is 1 with fewer than five classes.
        Multi-label: those of `multi_label_scores`, and global_ap, the area under the curve of
        precision over recall of all sigmoids together, whatever their class.
        `watch(images, labels, logits)` gets the examples of each batch, in the order of `dataset`
        (on several machines those of this one).
        Raises: UserError if there is no example, or none with a label.
        """
        if self.curve is not None:
            self.curve.reset_state()
        if self._counts is not None:
            self._counts.assign(tf.zeros_like(self._counts.read_value()))
        batches = dataset.batch(self.batch_size).map(self._pad).prefetch(tf.data.AUTOTUNE)
        sums, counter = np.zeros(1), Counter("evaluating", self.workers.stream)
        for number, batch in enumerate(self.workers.distribute_whole(batches)):
            features, labels = batch
            batch_sums, logits = self.step(features, labels)
            sums = sums + batch_sums.numpy()
            if watch is not None:
                shown = (features["image"], labels["label"], logits, features["weight"])
                *batch, weight = (self._rows(values) for values in shown)
                watch(*(values[weight > 0] for values in batch))
            counter.add(self.batch_size)
            self.workers.between(number)
        counter.close()
        examples = int(sums[-1])
        if not examples:
            raise UserError("the evaluation split has 0 examples; check the data set's splits")
        scores = self._multi_label(sums[1:]) if self.curve is not None else _single_label(sums[1:])
        return {"loss": float(sums[0] / examples), **scores, "examples": examples}

    def _multi_label(self, sums: np.ndarray) -> dict[str, float]:
        scores = multi_label_scores(sums)
        return {**scores, "global_ap": float(self.curve.result())}

    def _rows(self, per_replica) -> np.ndarray:
        return np.concatenate(self.strategy.experimental_local_results(per_replica))

    def _pad(self, features, labels):
        """Fills the last batch with zeros, so that all batches have one static shape."""
        image, label = features["image"], labels["label"]
        rows = tf.shape(image)[0]
        missing = self.batch_size - rows
        weight = tf.concat([tf.ones([rows]), tf.zeros([missing])], axis=0)
        image = tf.pad(image, [[0, missing], [0, 0], [0, 0], [0, 0]])
        label = tf.pad(label, [[0, missing], [0, 0]])
        image.set_shape([self.batch_size, *features["image"].shape[1:]])
        label.set_shape([self.batch_size, *labels["label"].shape[1:]])
        weight.set_shape([self.batch_size])
        return {"image": image, "weight": weight}, {"label": label}


def _single_label(sums: np.ndarray) -> dict[str, float]:
    top1, top5, examples = sums
    return {"top1": float(top1 / examples), "top5": float(top5 / examples)}


def _summed_over_replicas(shape: list[int]) -> tf.Variable:
    """Integers that each replica counts for itself, read as their sum."""
    return tf.Variable(
        tf.zeros(shape, tf.int64),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )
