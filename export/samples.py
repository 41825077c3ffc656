"""Images that every export is asked about, and what its network says about them."""

import base64
import json
import os

import keras
import numpy as np
import tensorflow as tf

from efficientnetv2.training.losses import activation_of
from export.frozen import ACTIVATIONS
from export.serving import evaluation_pixels
from hparams import Config

MAX_DIFFERENCE = 1e-4  # Of any score, between the model and its export.
EXPECTED_FILE = os.path.join("assets.extra", "expected_scores.json")

# {signature: (its inputs by name, the scores of the Keras model, float32 [N, K])}
Questions = dict[str, tuple[dict[str, np.ndarray], np.ndarray]]


def sample_images() -> list[bytes]:
    """Returns two JPEGs, made here and always the same: wide and high, smooth with fine noise."""
    rng = np.random.default_rng(0)
    images = []
    for height, width in ((240, 320), (400, 300)):
        coarse = rng.uniform(0, 255, (1, 6, 6, 3)).astype(np.float32)
        smooth = tf.image.resize(coarse, (height, width))[0].numpy()
        noisy = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
        images.append(tf.io.encode_jpeg(noisy).numpy())
    return images


def ask_model(model: keras.Model, config: Config) -> Questions:
    """Asks a model about the sample images, by bytes, by uint8 pixels and by float pixels."""
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
    """What the Keras network itself says: [N, S, S, 3] -> probabilities, float32 [N, K]."""
    activate = ACTIVATIONS[activation_of(config.train.loss_type)]
    return activate(tf.cast(model(pixels, training=False), tf.float32)).numpy()


def score_difference(loaded, questions: Questions) -> float:
    """Returns the greatest difference of a score of an export; NaN, if one is."""
    differences = []
    for name, (inputs, expected) in questions.items():
        tensors = {key: tf.constant(value) for key, value in inputs.items()}
        answer = loaded.signatures[name](**tensors)["scores"]
        differences.append(np.max(np.abs(expected - answer)))
    return float(np.max(differences))


def write_expected(path: str, questions: Questions) -> None:
    """Writes `assets.extra/expected_scores.json`: images and scores, to prove a copy anywhere.

    Pixels are stored as PNG, which loses nothing; those in float are left out.
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
    """Returns what `write_expected` wrote, without float pixels.

    Raises: OSError, ValueError or KeyError if the file is not there or holds something else.
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
