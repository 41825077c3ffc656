"""What lies in an export beside the graph: class names, warm-up requests, the model card."""

import dataclasses
import json
import os
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from efficientnetv2.from_config import normalization_of
from efficientnetv2.training.losses import activation_of
from hparams import Config

WARMUP_BATCHES = (1, 8, 32)


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


def write_labels(path: str, class_names: Sequence[str]) -> None:
    """Writes `assets/labels.txt`: line i names class i."""
    os.makedirs(os.path.join(path, "assets"), exist_ok=True)
    with open(os.path.join(path, "assets", "labels.txt"), "w", encoding="utf-8") as file:
        file.writelines(f"{name}\n" for name in class_names)


def write_warmup(path: str, image_size: int) -> None:
    """Writes requests that TensorFlow Serving replays when it loads the export.

    Source: https://www.tensorflow.org/tfx/serving/saved_model_warmup
    """
    folder = os.path.join(path, "assets.extra")
    os.makedirs(folder, exist_ok=True)
    image_bytes = sample_images()[0]
    pixels = np.zeros((image_size, image_size, 3), np.uint8)
    with tf.io.TFRecordWriter(os.path.join(folder, "tf_serving_warmup_requests")) as writer:
        for batch in WARMUP_BATCHES:
            inputs = {
                "serving_default": ("image_bytes", tf.constant([image_bytes] * batch)),
                "predict_images": ("images", np.stack([pixels] * batch)),
            }
            for signature, (name, values) in inputs.items():
                request = predict_pb2.PredictRequest()
                request.model_spec.signature_name = signature
                request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
                predict_log = prediction_log_pb2.PredictLog(request=request)
                log = prediction_log_pb2.PredictionLog(predict_log=predict_log)
                writer.write(log.SerializeToString())


def write_card(
    path: str, model_name: str, config: Config, weights: dict | None, difference: float
) -> None:
    """Writes `model_card.json`: network, activation, preprocessing, weights, versions, proof."""
    card = {
        "model": model_name,
        "num_classes": config.data.num_classes,
        "activation": activation_of(config.train.loss_type),
        "preprocessing": {
            "image_size": config.eval.isize,
            "crop": config.data.eval_crop,
            "resize_method": config.data.resize_method,
            "normalization": normalization_of(config.model),
            "where": "all of it in the graph",
        },
        "weights": weights or {},
        "max_score_difference_to_the_model": difference,
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
        "config": dataclasses.asdict(config),
    }
    with open(os.path.join(path, "model_card.json"), "w", encoding="utf-8") as file:
        json.dump(card, file, indent=2)
