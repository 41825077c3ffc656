"""What lies in an export beside the graph: class names and warm-up requests."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from export.samples import sample_images

WARMUP_BATCHES = (1, 8, 32)
WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")


def write_labels(path: str, class_names: Sequence[str]) -> None:
    """Writes `assets/labels.txt`: line i names class i."""
    os.makedirs(os.path.join(path, "assets"), exist_ok=True)
    with open(os.path.join(path, "assets", "labels.txt"), "w", encoding="utf-8") as file:
        file.writelines(f"{name}\n" for name in class_names)


def write_warmup(path: str, image_size: int) -> None:
    """Writes requests that TensorFlow Serving replays when it loads the export.

    Source: https://www.tensorflow.org/tfx/serving/saved_model_warmup
    """
    os.makedirs(os.path.join(path, "assets.extra"), exist_ok=True)
    image_bytes = sample_images()[0]
    pixels = np.zeros((image_size, image_size, 3), np.uint8)
    with tf.io.TFRecordWriter(os.path.join(path, WARMUP_FILE)) as writer:
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


def read_warmup(path: str) -> Iterator[tuple[str, dict[str, tf.Tensor]]]:
    """Yields (signature, its inputs by name) of each warm-up request of an export.

    Raises: tf.errors.OpError if the file is not there or damaged.
    """
    for record in tf.data.TFRecordDataset(os.path.join(path, WARMUP_FILE)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        inputs = {name: tf.constant(tf.make_ndarray(t)) for name, t in request.inputs.items()}
        yield request.model_spec.signature_name, inputs
