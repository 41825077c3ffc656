"""Comparison of exports with their network: reference inputs, real images, score differences."""

import base64
import dataclasses
import json
import os
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from efficientnetv2 import datasets
from efficientnetv2.common.errors import UserError
from efficientnetv2.export.frozen import ACTIVATIONS
from efficientnetv2.export.serving import evaluation_pixels
from efficientnetv2.hparams import Config
from efficientnetv2.training.losses import activation_of

MAX_DIFFERENCE = 1e-4  # Largest allowed difference of a score of the export from the model's.
EXPECTED_FILE = os.path.join("assets.extra", "expected_scores.json")

# {signature: (its inputs by name, the scores of the Keras model, float32 [N, K])}
Questions = dict[str, tuple[dict[str, np.ndarray], np.ndarray]]
# Limits for quantized weights or activations. Google reports 0.8 to 1.6 points less accuracy for
# EfficientNetV2 in 8 bits, so good quantization costs about one point. Agreement also counts
# images that lie between two classes: a B0 that lost 0.1 points on CIFAR-10 agreed on 97%.
MAX_ACCURACY_LOSS, MIN_AGREEMENT = 0.01, 0.95
BATCH = 16
Classify = Callable[[np.ndarray], np.ndarray]
CALIBRATION, COMPARISON = 48, 64  # Numbers of images, evenly spaced over a split.


def sample_images() -> list[bytes]:
    """Returns two synthetic, deterministic JPEGs, one wide and one tall: smooth with fine noise."""
    rng = np.random.default_rng(0)
    images = []
    for height, width in ((240, 320), (400, 300)):
        coarse = rng.uniform(0, 255, (1, 6, 6, 3)).astype(np.float32)
        smooth = tf.image.resize(coarse, (height, width))[0].numpy()
        noisy = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
        images.append(tf.io.encode_jpeg(noisy).numpy())
    return images


def ask_model(model: keras.Model, config: Config) -> Questions:
    """Runs a model on the sample images, given as bytes, as uint8 pixels and as float pixels."""
    encoded = sample_images()
    exact = np.stack([evaluation_pixels(e, config.eval.isize, config.data) for e in encoded])
    rounded = np.clip(np.round(exact), 0, 255).astype(np.uint8)
    of_exact = scores_of_model(model, config, exact)
    return {
        "serving_default": ({"image_bytes": np.array(encoded, object)}, of_exact),
        "predict_images": ({"images": rounded}, scores_of_model(model, config, rounded)),
        "predict_images_float": ({"images": exact}, of_exact),
    }


def scores_of_model(model: keras.Model, config: Config, pixels: np.ndarray) -> np.ndarray:
    """Returns the scores of the Keras network: [N, S, S, 3] -> probabilities, float32 [N, K]."""
    activate = ACTIVATIONS[activation_of(config.train.loss_type)]
    return activate(tf.cast(model(pixels, training=False), tf.float32)).numpy()


def score_difference(loaded, questions: Questions) -> float:
    """Returns the largest difference of any score of an export; NaN if any score is NaN."""
    differences = []
    for name, (inputs, expected) in questions.items():
        tensors = {key: tf.constant(value) for key, value in inputs.items()}
        answer = loaded.signatures[name](**tensors)["scores"]
        differences.append(np.max(np.abs(expected - answer)))
    return float(np.max(differences))


def write_expected(path: str, questions: Questions) -> None:
    """Writes `assets.extra/expected_scores.json`: images and scores that verify any copy.

    Pixels are stored as PNG, which is lossless; float pixels are omitted.
    """
    (encoded, of_bytes), (pixels, of_pixels) = (
        (next(iter(inputs.values())), scores.tolist())
        for inputs, scores in (questions["serving_default"], questions["predict_images"])
    )
    content = {
        "max_difference": MAX_DIFFERENCE,
        "serving_default": {"jpeg": _in_base64(encoded), "scores": of_bytes},
        "predict_images": {
            "png": _in_base64(tf.io.encode_png(image).numpy() for image in pixels),
            "scores": of_pixels,
        },
    }
    with open(os.path.join(path, EXPECTED_FILE), "w", encoding="utf-8") as file:
        json.dump(content, file)


def read_expected(path: str) -> Questions:
    """Reads the images and scores that `write_expected` wrote, without float pixels.

    Raises: OSError, ValueError or KeyError if the file is missing or has other content.
    """
    with open(os.path.join(path, EXPECTED_FILE), encoding="utf-8") as file:
        content = json.load(file)
    of_bytes, of_pixels = content["serving_default"], content["predict_images"]
    encoded = [base64.b64decode(text) for text in of_bytes["jpeg"]]
    pixels = [tf.io.decode_png(base64.b64decode(text)).numpy() for text in of_pixels["png"]]
    return {
        "serving_default": (
            {"image_bytes": np.array(encoded, object)},
            np.array(of_bytes["scores"], np.float32),
        ),
        "predict_images": (
            {"images": np.stack(pixels)},
            np.array(of_pixels["scores"], np.float32),
        ),
    }


def _in_base64(contents) -> list[str]:
    return [base64.b64encode(content).decode() for content in contents]


class ExportMismatch(RuntimeError):
    """Raised if the outputs of an export differ from those of its model."""


@dataclasses.dataclass(frozen=True)
class Parity:
    """Comparison of an exported file with its model on the same images.

    `max_difference`: the largest of any score, NaN if any score is NaN. `agreement`: the fraction
    of images with the same best class. The accuracies are None if the labels are unknown.
    """

    images: int
    max_difference: float
    agreement: float
    accuracy: float | None = None
    model_accuracy: float | None = None

    def __str__(self) -> str:
        text = (
            f"scores differ by at most {self.max_difference:.2g}, "
            f"same best class for {self.agreement:.1%} of {self.images} images"
        )
        if self.accuracy is None:
            return text
        return f"{text}, top-1 {self.accuracy:.1%} (model: {self.model_accuracy:.1%})"


def compare(
    classify: Classify,
    scores_of_model: Classify,
    images: np.ndarray,
    labels: np.ndarray | None = None,
) -> Parity:
    """Compares an exported file with its model on the same images, in batches.

    Shapes: both functions map float32 [N, S, S, 3] in [0, 255] -> [N, K]; `images` are such an
    input, `labels` integers [N].
    """
    ours, models = (
        np.concatenate(
            [np.asarray(ask(images[i : i + BATCH])) for i in range(0, len(images), BATCH)]
        )
        for ask in (classify, scores_of_model)
    )
    best, model_best = ours.argmax(-1), models.argmax(-1)
    accuracies = {}
    if labels is not None:
        accuracies["accuracy"] = float(np.mean(best == labels))
        accuracies["model_accuracy"] = float(np.mean(model_best == labels))
    difference = float(np.max(np.abs(ours - models)))
    agreement = float(np.mean(best == model_best))
    return Parity(len(images), difference, agreement, **accuracies)


def check(parity: Parity, name: str, *, quantised: bool) -> list[str]:
    """Returns warnings about a quantized format; a float32 format either passes or raises.

    Raises: ExportMismatch if a score is not finite, or if the format is not quantized and a score
    differs by more than 1e-4.
    """
    if not np.isfinite(parity.max_difference):
        raise ExportMismatch(f"{name} gives scores that are not finite")
    if not quantised:
        if parity.max_difference > MAX_DIFFERENCE:
            raise ExportMismatch(
                f"{name} differs from the model by {parity.max_difference} in a score"
            )
        return []
    lines = []
    if parity.agreement < MIN_AGREEMENT:
        lines.append(
            f"{name} names the model's class for {parity.agreement:.1%} of {parity.images} images "
            f"only; below {MIN_AGREEMENT:.0%} measure its accuracy before you use it"
        )
    if parity.accuracy is not None:
        loss = parity.model_accuracy - parity.accuracy
        if loss > MAX_ACCURACY_LOSS + 1e-9:  # One of 100 images is exactly a point.
            lines.append(
                f"{name} loses {100 * loss:.1f} points of accuracy on {parity.images} images; "
                "more varied examples, or a format with float activations, lose less"
            )
    return lines


@dataclasses.dataclass(frozen=True)
class Images:
    """Images as the network receives them: `pixels`, float32 [N, S, S, 3] in [0, 255].

    `labels`: int64 [N], or None if they are unknown or an example may have several.
    `origin`: a readable description of the source of the images.
    """

    pixels: np.ndarray
    labels: np.ndarray | None
    origin: str


def from_split(config: Config, split: str, count: int) -> Images:
    """Returns `count` examples of a split, or all, if there are fewer.

    Raises: UserError if the data set cannot be opened.
    """
    source = datasets.open_source(config.data, split, config.train.seed)
    step = max(1, source.num_examples // count)
    pixels, labels = [], []
    for record in source.records(None).shard(step, 0).take(count):
        image_bytes, label = source.load(*record)
        pixels.append(evaluation_pixels(image_bytes, config.eval.isize, config.data).numpy())
        labels.append(label.numpy())
    known = not source.multi_label and len(source.class_names) == config.data.num_classes
    return Images(
        np.clip(np.stack(pixels), 0, 255),
        np.array(labels) if known else None,
        f"{len(pixels)} examples of {split}",
    )


def to_compare(config: Config) -> Images:
    """Returns examples of the `eval` split, or two synthetic images if its data is missing."""
    try:
        return from_split(config, "eval", COMPARISON)
    except UserError as error:
        pixels = [evaluation_pixels(x, config.eval.isize, config.data) for x in sample_images()]
        return Images(np.clip(np.stack(pixels), 0, 255), None, f"2 made-up images, for {error}")
