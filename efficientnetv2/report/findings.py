"""What an evaluation finds out for a report: scores per class, and the worst errors."""

import dataclasses
import heapq
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from efficientnetv2.training.eval_steps import predicted_classes
from efficientnetv2.training.evaluation import Evaluator
from efficientnetv2.training.losses import activation_of
from hparams import Config

MOST_ERRORS = 12
MOST_SCORES = 2**28  # One per example and class; 1 GiB.


@dataclasses.dataclass(frozen=True)
class Mistake:
    """An image, float32 or uint8 [H, W, 3] in [0, 255], and what it was confidently taken for.

    `position` in the split, from 0; `score` of `predicted` in [0, 1]; `labels`, its true classes.
    """

    position: int
    image: np.ndarray
    labels: tuple[int, ...]
    predicted: int
    score: float
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Findings:
    """Of one evaluation, at `image_size` pixels; arrays have one value per class.

    `scores` are the evaluator's; `class_scores` the share of a class's examples that is right, or,
    with several labels per example, its average precision; NaN for a class without examples, or
    for all of them where there are more than `MOST_SCORES` scores to remember.
    `confusion` int64 [K, K], rows are labels; None with several labels or very many classes.
    `mistakes`: the most confident first.
    """

    split: str
    image_size: int
    step: int | None
    scores: dict[str, float | int]
    class_counts: np.ndarray
    class_scores: np.ndarray
    confusion: np.ndarray | None
    mistakes: tuple[Mistake, ...]


def evaluate_run(
    strategy: tf.distribute.Strategy,
    model,
    config: Config,
    dataset: tf.data.Dataset,
    *,
    split: str,
    step: int | None,
    names_at: Callable[[Sequence[int]], list[str]] | None = None,
    most_errors: int = MOST_ERRORS,
) -> Findings:
    """Evaluates a model in one pass over a split; `dataset` as for `Evaluator`.

    `names_at(positions)` gives the names of examples, such as paths.
    Raises: UserError as `Evaluator`.
    """
    train, multi_label = config.train, config.data.multiclass
    evaluator = Evaluator(
        strategy, model, config.eval.batch_size, train.loss_type, multi_label, confusion=True
    )
    kind = _SeveralLabels if multi_label else _OneLabel
    watcher = kind(activation_of(train.loss_type), most_errors)
    scores = evaluator(dataset, watcher)
    mistakes = watcher.mistakes
    if names_at is not None and mistakes:
        names = names_at([one.position for one in mistakes])
        mistakes = [dataclasses.replace(one, name=name) for one, name in zip(mistakes, names)]
    return Findings(
        split,
        config.eval.isize,
        step,
        scores,
        watcher.counts,
        watcher.class_scores(),
        evaluator.confusion,
        tuple(mistakes),
    )


class _Watcher:
    """Counts examples per class, and keeps the most confident mistakes."""

    def __init__(self, activation: str, most: int):
        self.activation, self.most = activation, most
        self.counts, self.seen = 0, 0
        self._worst = []

    def __call__(self, images, labels, logits) -> None:
        self.counts = self.counts + (labels > 0).sum(axis=0)
        predicted, scores, wrong = self.judge(labels, logits)
        for row in np.flatnonzero(wrong):
            key = (float(scores[row]), -(self.seen + int(row)))
            if len(self._worst) < self.most or key > self._worst[0][:2]:
                true = tuple(np.flatnonzero(labels[row] > 0).tolist())
                position, image = self.seen + int(row), np.array(images[row])
                one = Mistake(position, image, true, int(predicted[row]), key[0])
                push = heapq.heappush if len(self._worst) < self.most else heapq.heappushpop
                push(self._worst, (*key, one))
        self.seen += len(labels)

    @property
    def mistakes(self) -> list[Mistake]:
        """The most confident first, of equal ones the first in the split."""
        return [one for *_, one in sorted(self._worst, key=lambda item: item[:2], reverse=True)]


class _OneLabel(_Watcher):
    hits = 0

    def judge(self, labels, logits):
        """Of each example: the class it is taken for, its score, whether that is wrong."""
        predicted = predicted_classes(labels, logits).numpy()
        scores = tf.nn.softmax(logits) if self.activation == "softmax" else tf.nn.sigmoid(logits)
        chosen = np.take_along_axis(np.nan_to_num(scores), predicted[:, None], axis=1)[:, 0]
        hit = predicted == labels.argmax(axis=-1)
        self.hits = self.hits + (labels > 0)[hit].sum(axis=0)
        return predicted, chosen, ~hit

    def class_scores(self) -> np.ndarray:
        return np.where(self.counts > 0, self.hits / np.maximum(self.counts, 1), np.nan)


class _SeveralLabels(_Watcher):
    """Takes an example for the best of the classes that it does not have."""

    def __init__(self, activation: str, most: int):
        super().__init__(activation, most)
        self._labels, self._scores = [], []

    def judge(self, labels, logits):
        scores = np.nan_to_num(tf.nn.sigmoid(logits).numpy())
        if (self.seen + len(labels)) * labels.shape[1] > MOST_SCORES:
            self._labels = self._scores = None
        if self._scores is not None:
            self._labels.append(labels > 0)
            self._scores.append(scores)
        absent = np.where(labels > 0, -1.0, scores)
        predicted = absent.argmax(axis=-1)
        chosen = np.take_along_axis(absent, predicted[:, None], axis=1)[:, 0]
        return predicted, chosen, chosen > 0.5

    def class_scores(self) -> np.ndarray:
        if self._scores is None:
            return np.full(self.counts.shape, np.nan)
        labels, scores = np.concatenate(self._labels), np.concatenate(self._scores)
        return np.array([average_precision(*pair) for pair in zip(labels.T, scores.T)])


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Returns the mean, over the examples that have the label, of the precision down to each.

    Shapes: bool [N], float [N]. Examples of equal score count together. NaN if none has the label.
    """
    if not labels.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    labels, scores = labels[order], scores[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # Of each score.
    found = np.cumsum(labels)[last]
    precision = found / (last + 1)
    return float((np.diff(found, prepend=0) * precision).sum() / labels.sum())
