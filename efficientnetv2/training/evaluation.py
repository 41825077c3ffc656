"""Evaluation: every example once, whatever the batch size and the number of replicas."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from efficientnetv2.training.eval_steps import make_eval_step
from efficientnetv2.training.multilabel import multi_label_scores
from efficientnetv2.training.run_log import Counter
from efficientnetv2.training.workers import Workers
from hparams import UserError

THRESHOLDS = 200  # Of the precision-recall curve. Source: official.
MOST_CLASSES = 1000  # Of a confusion matrix: it has their square.

Watch = Callable[[np.ndarray, np.ndarray, np.ndarray], None]


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

        An example counts as `eval_steps.predicted_classes` says, so the diagonal's sum is the
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
        sums, counter = np.zeros(1), Counter("evaluating")
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
