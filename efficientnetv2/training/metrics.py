"""Evaluation metrics over every example once, for any batch size and number of replicas."""

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
MOST_CLASSES = 1000  # Limit for a confusion matrix, which has K * K entries.
Watch = Callable[[np.ndarray, np.ndarray, np.ndarray], None]


def multi_label_rows(labels, logits):
    """Returns per-example values whose sums are the input of `multi_label_scores`.

    Shapes: float32 [B, K] of 0 and 1, float32 [B, K] -> float32 [7, B]: whether the top class is a
    label; whether any of the top five is; number of labels among the top five; number of labels;
    whether there are any; number of top classes (five, or K if that is less); 1.
    An example with a NaN logit has no hits.
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
    """Returns hit, precision and recall at 1 and at 5, as fractions in [0, 1], by name.

    `sums`: [7], the sums of `multi_label_rows` over the examples. An example without labels counts
    only toward precision: any prediction for it is wrong.
    Raises: UserError if no example has a label.
    Source: official (`tf.metrics.precision_at_k`, `recall_at_k`, over all examples together).
    Deviates: officially, an example without labels counts as class 0.
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
    """Returns per example: top-1 hit, top-5 hit, 1. float32 [B, K], [B, K] -> float32 [3, B]."""
    target = tf.argmax(labels, axis=-1, output_type=tf.int32)
    own = tf.gather(logits, target, batch_dims=1)[:, tf.newaxis]
    # NaN compares false, so it counts as larger: an example without finite logits is not a hit.
    # (TensorFlow rewrites ~(a <= b) as a > b, which is not the same for NaN.)
    rank = logits.shape[-1] - tf.reduce_sum(tf.cast(logits <= own, tf.int32), axis=-1)
    top1, top5 = tf.cast(rank < 1, tf.float32), tf.cast(rank < 5, tf.float32)
    return tf.stack([top1, top5, tf.ones_like(top1)])


def predicted_classes(labels, logits):
    """Returns the predicted class of each example, consistent with the top-1 hits.

    Shapes: float32 [B, K], [B, K] -> int32 [B]. For a hit this is the label's class, even if
    another class has the same logit; otherwise it is the class with the largest of the other
    logits, where NaN counts as larger than any number.
    """
    target = tf.argmax(labels, axis=-1, output_type=tf.int32)
    hit = single_label_rows(labels, logits)[0] > 0
    others = tf.where(tf.math.is_nan(logits), tf.float32.max, logits)
    others = tf.maximum(others, tf.float32.min / 2)  # Even -inf exceeds the masked target.
    others = tf.where(tf.one_hot(target, logits.shape[-1], True, False), tf.float32.min, others)
    return tf.where(hit, target, tf.argmax(others, axis=-1, output_type=tf.int32))


def count_pairs(labels, logits, weight):
    """Counts the pairs [label, predicted class] of examples whose weight is not 0.

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
    """Returns `eval_step(features, labels) -> (sums, logits)`; add up the sums over batches.

    `features` also holds "weight", float32 [B], 0 for rows that only pad a batch. `sums`: float32
    [4]: the loss (without smoothing, weight decay, class weights or focal factors), top-1 hits,
    top-5 hits, examples. The counts of `count_pairs` are added to `confusion`, int64 [K, K].
    If an image may have several labels, pass a `curve`: it is updated with the sigmoids of the
    logits, and `sums` are the loss and the sums of `multi_label_rows`, [8].
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
    """Evaluates a model on data sets; its step is traced once.

    `loss_type`: see `train.loss_type`; `multi_label`: whether an image may have any number of
    labels, see `data.multiclass`; `confusion`: whether to compute a confusion matrix.
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
        """The confusion matrix of the last evaluation: int64 [K, K], [label, prediction].

        Predictions are those of `predicted_classes`, so the sum of the diagonal is the number of
        top-1 hits. None if it was not requested, with several labels per example, or for more than
        `MOST_CLASSES` classes.
        """
        return None if self._counts is None else self._counts.read_value().numpy()

    def __call__(
        self, dataset: tf.data.Dataset, watch: Watch | None = None
    ) -> dict[str, float | int]:
        """Returns loss (mean, without smoothing), scores (fractions in [0, 1]) and example count.

        `dataset`: unbatched ({"image"}, {"label"}) examples, image uint8 or float [S, S, 3],
        label float32 [K]. The scores are top1 and top5, which is 1 with fewer than five classes.
        Multi-label: those of `multi_label_scores`, and global_ap, the area under the
        precision-recall curve of the sigmoids of all classes together.
        `watch(images, labels, logits)` is called with the examples of each batch, in the order of
        `dataset` (with several workers, those of this one).
        Raises: UserError if there are no examples, or none with a label.
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
    """Creates integers that each replica counts separately and that are read as their sum."""
    return tf.Variable(
        tf.zeros(shape, tf.int64),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )
