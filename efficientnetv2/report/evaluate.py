"""Evaluation for a report: scores per class, the worst errors, and Grad-CAM of each."""

import dataclasses
import heapq
from collections.abc import Callable, Sequence

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from PIL import Image

from efficientnetv2 import datasets
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.plots import image_png
from efficientnetv2.datasets.bad_examples import explain_reading_errors
from efficientnetv2.hparams import Config
from efficientnetv2.training.load_trained import Trained
from efficientnetv2.training.losses import activation_of
from efficientnetv2.training.metrics import Evaluator, predicted_classes

MOST_ERRORS = 12
MOST_SCORES = 2**28  # One per example and class; 1 GiB.
_SIDE, _GAP = 208, 6  # pixels
_OPAQUE = 0.6  # Opacity of an overlay where the map is 1.


def grad_cam(model: keras.Model, images, classes) -> np.ndarray:
    """Returns Grad-CAM maps of the evidence for a class, from the last features before pooling.

    Shapes: images [B, H, W, C], as the model takes them (pixels in [0, 255] with its own
    preprocessing); classes int [B], one per image -> float32 [B, h, w] in [0, 1], at the resolution
    of the features. The largest value of a map is 1, unless there is no evidence for the class:
    then it is all 0.

    `model`: a network of `build_model`, including "keras/NAME", or any functional model that ends
    in global average pooling and a head.

        maps = grad_cam(model, images, np.argmax(model.predict(images), axis=-1))

    Raises: UserError if the model has no global average pooling.
    Source: arXiv 1610.02391: the weights are the spatial means of the gradients, and negative sums
    become 0.
    """
    before, features_model, behind = _parts(model)
    features = _through(before, tf.cast(images, tf.float32))
    features = tf.cast(features_model(features, training=False), tf.float32)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(features)
        logits = tf.cast(_through(behind, features), tf.float32)
        # Summed for one backward pass, since no image's logit depends on another image.
        chosen = tf.reduce_sum(tf.gather(logits, tf.cast(classes, tf.int32), batch_dims=1))
    gradients = tape.gradient(chosen, features)  # [B, h, w, channels]
    weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
    maps = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1))
    return tf.math.divide_no_nan(maps, tf.reduce_max(maps, axis=(1, 2), keepdims=True)).numpy()


def _parts(model: keras.Model) -> tuple[list, keras.Model, list]:
    """Returns the layers before the body, the body up to its pooling, and the layers from there.

    The body is the model itself, or, for "keras/NAME", the network inside it.
    """
    layers = model.layers[1:]  # Without the input.
    bodies = [layer for layer in layers if isinstance(layer, keras.Model)]
    if not bodies:
        pool = _last_pooling(model)
        return [], keras.Model(model.inputs, pool.input), layers[layers.index(pool) :]
    body = bodies[-1]
    pool, at = _last_pooling(body), layers.index(body)
    inside = body.layers[body.layers.index(pool) :]
    return layers[:at], keras.Model(body.inputs, pool.input), inside + layers[at + 1 :]


def _last_pooling(model: keras.Model) -> keras.layers.Layer:
    kind = keras.layers.GlobalAveragePooling2D
    pools = [layer for layer in model.layers if isinstance(layer, kind)]
    if not pools:
        raise UserError(f"{model.name} has no global average pooling, which Grad-CAM needs")
    return pools[-1]


def _through(layers: list, x):
    for layer in layers:
        x = layer(x)
    return x


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A misclassified image, float32 or uint8 [H, W, 3] in [0, 255], with its prediction.

    `position`: in the split, from 0; `labels`: the true classes; `score`: of the class `predicted`,
    in [0, 1].
    """

    position: int
    image: np.ndarray
    labels: tuple[int, ...]
    predicted: int
    score: float
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Findings:
    """Results of one evaluation at `image_size` pixels; arrays have one value per class.

    `scores`: those of the evaluator. `class_scores`: the fraction of a class's examples that are
    classified correctly or, with several labels per example, its average precision; NaN for a class
    without examples, or for all classes if there would be more than `MOST_SCORES` scores to store.
    `confusion`: int64 [K, K], rows are labels; None with several labels or very many classes.
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


def evaluate_split(run: Trained, split: str) -> Findings:
    """Evaluates a run on a split of its data, in one pass.

    Raises: UserError if the data cannot be read, or its classes are not those of the run.
    """
    config = run.config
    source = datasets.open_source(config.data, split, config.train.seed)
    if source.class_names != run.class_names:
        raise UserError(
            f"the classes of the data are not those of {run.labels}; give the data that was "
            "trained on, by --data_dir"
        )
    bad = datasets.BadExamples(source, split, config.data)

    def names_at(positions):
        wanted, names = set(positions), {}
        for position, record in enumerate(source.records(None)):
            if position in wanted:
                names[position] = source.name_of(*record).numpy().decode("utf-8", "replace")
        # If examples were skipped, positions do not identify them.
        return [names[position] if not bad.count else "" for position in positions]

    with explain_reading_errors([source], config.data):
        dataset = datasets.build_dataset(config, split, source=source, bad=bad)
        return evaluate_run(
            run.strategy,
            run.model,
            config,
            dataset,
            split=split,
            step=run.loaded.step,
            names_at=names_at,
        )


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
        """The mistakes, most confident first; equally confident ones in the order of the split."""
        return [one for *_, one in sorted(self._worst, key=lambda item: item[:2], reverse=True)]


class _OneLabel(_Watcher):
    hits = 0

    def judge(self, labels, logits):
        """Returns, for each example, the predicted class, its score, and whether it is wrong."""
        predicted = predicted_classes(labels, logits).numpy()
        scores = tf.nn.softmax(logits) if self.activation == "softmax" else tf.nn.sigmoid(logits)
        chosen = np.take_along_axis(np.nan_to_num(scores), predicted[:, None], axis=1)[:, 0]
        hit = predicted == labels.argmax(axis=-1)
        self.hits = self.hits + (labels > 0)[hit].sum(axis=0)
        return predicted, chosen, ~hit

    def class_scores(self) -> np.ndarray:
        return np.where(self.counts > 0, self.hits / np.maximum(self.counts, 1), np.nan)


class _SeveralLabels(_Watcher):
    """Treats the best-scoring class that an example does not have as its prediction."""

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
    """Returns the mean precision at the ranks of the examples that have the label.

    Shapes: bool [N], float [N]. Examples with equal scores share a rank. NaN if none has the label.
    """
    if not labels.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    labels, scores = labels[order], scores[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # Last rank of each score.
    found = np.cumsum(labels)[last]
    precision = found / (last + 1)
    return float((np.diff(found, prepend=0) * precision).sum() / labels.sum())


def draw_mistakes(model, mistakes: Sequence[Mistake]) -> list[bytes]:
    """Returns a PNG of each: the image, and the evidence for the predicted and for the true class.

    The third is omitted if an example has no label or several.
    """
    if not mistakes:
        return []
    images = np.stack([one.image for one in mistakes])
    for_predicted = grad_cam(model, images, [one.predicted for one in mistakes])
    for_true = grad_cam(model, images, [(*one.labels, 0)[0] for one in mistakes])
    strips = []
    for one, *maps in zip(mistakes, for_predicted, for_true):
        shown = maps if len(one.labels) == 1 else maps[:1]
        strips.append(image_png(_strip(one.image, shown)))
    return strips


def overlay(image: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Overlays an image with the evidence, whose opacity grows with its value.

    Shapes: uint8 [H, W, 3], float32 [h, w] in [0, 1] -> uint8 [H, W, 3].
    """
    height, width = image.shape[:2]
    picture = Image.fromarray(evidence.astype(np.float32))
    smooth = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    smooth = np.clip(np.nan_to_num(smooth), 0.0, 1.0)
    colours = matplotlib.colormaps["turbo"](smooth)[..., :3] * 255
    share = (_OPAQUE * smooth)[..., np.newaxis]
    return np.round(image * (1 - share) + colours * share).astype(np.uint8)


def _strip(image: np.ndarray, maps: Sequence[np.ndarray]) -> np.ndarray:
    pixels = np.clip(np.round(image), 0, 255).astype(np.uint8)
    way = Image.Resampling.NEAREST if pixels.shape[1] < _SIDE else Image.Resampling.LANCZOS
    large = np.asarray(Image.fromarray(pixels).resize((_SIDE, _SIDE), way))
    gap = np.full((_SIDE, _GAP, 3), 255, np.uint8)
    parts = [large]
    for evidence in maps:
        parts += [gap, overlay(large, evidence)]
    blank = np.full((_SIDE, _GAP + _SIDE, 3), 255, np.uint8)  # Gives all strips the same width.
    return np.concatenate([*parts, *[blank] * (2 - len(maps))], axis=1)
