"""SavedModel export for TensorFlow Serving: written atomically and verified."""

import os
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from efficientnetv2.common.console import verbosity
from efficientnetv2.common.files import as_path
from efficientnetv2.export.card import signatures_of, write_card
from efficientnetv2.export.compare import (
    MAX_DIFFERENCE,
    ExportMismatch,
    Questions,
    ask_model,
    sample_images,
    score_difference,
    write_expected,
)
from efficientnetv2.export.formats import check_formats, write_formats
from efficientnetv2.export.serving import SIGNATURES, ServingModule
from efficientnetv2.export.versions import new_version
from efficientnetv2.hparams import Config
from efficientnetv2.report.history import run_scores
from efficientnetv2.training.checkpoint import writing
from efficientnetv2.training.load_trained import Trained, as_trained
from efficientnetv2.training.losses import activation_of

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
    """Yields (signature, its inputs by name) for each warm-up request of an export.

    Raises: tf.errors.OpError if the file is missing or damaged.
    """
    for record in tf.data.TFRecordDataset(os.path.join(path, WARMUP_FILE)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        inputs = {name: tf.constant(tf.make_ndarray(t)) for name, t in request.inputs.items()}
        yield request.model_spec.signature_name, inputs


def export(
    run: str | os.PathLike | Trained,
    export_dir: str | os.PathLike,
    *,
    formats: Sequence[str] = (),
    version: int | None = None,
    verbose: bool = False,
) -> str:
    """Exports a trained network as a SavedModel for TensorFlow Serving, and verifies it.

    Decoding, cropping, resizing and normalization are in the graph. The folder is written
    atomically, and never over an existing version.

    Args:
        run: directory of a run, or the result of `load_run` or `load_pretrained`.
        export_dir: folder of the versions, one subfolder each, as TensorFlow Serving expects it.
        formats: additional formats: "tflite", "tflite_fp16", "tflite_int8", "onnx", "openvino".
        version: version number, at least 1; None: the next free one.
        verbose: print how the formats compare with the network.

    Returns: the path of the version, such as "serving/photos/1".

    Raises: UserError if the version exists or cannot be written, or if packages of a format are
        not installed; ExportMismatch if the export, read back, differs from the network.

    Example:
        path = effnet.export("runs/photos", "serving/photos", formats=("tflite", "onnx"))
    """
    export_dir = as_path(export_dir, "export_dir")
    with verbosity(verbose):
        check_formats(formats)  # Before anything is loaded.
        run = as_trained(run)
        loaded = run.loaded
        weights = {
            "source": loaded.source,
            "format": loaded.format,
            "step": loaded.step,
            "averaged": loaded.used_ema,
            "adapted": list(loaded.adapted),
        }
        return export_saved_model(
            run.model,
            export_dir,
            run.config,
            class_names=run.class_names,
            weights=weights,
            metrics=run_scores(run),
            version=version,
            formats=formats,
        )


def export_saved_model(
    model: keras.Model,
    path: str,
    config: Config,
    *,
    class_names: Sequence[str] = (),
    weights: dict | None = None,
    metrics: dict | None = None,
    version: int | None = None,
    formats: Sequence[str] = (),
) -> str:
    """Writes `path/VERSION/`, verifies it and returns its path.

    The version is `version`, or the next free one. The folder gets its final name only once it is
    complete and verified. It contains the signatures `serving_default` (encoded image bytes),
    `predict_images` (uint8 pixels), `predict_images_float` and `predict_features`;
    `assets/labels.txt`; warm-up requests and the model's scores for some images in
    `assets.extra/`; and `model_card.json`, which includes `weights`, the source of the weights,
    and `metrics`, their evaluation, see `write_card`. Scores use the activation of
    `train.loss_type`. `formats`: names of `FORMATS`, whose files are written next to the
    SavedModel; see `write_formats`.

    Raises: UserError if `path` cannot be written to or already has this version, or if a format
    lacks a package or its data; ExportMismatch if the export, read back, differs from the model.
    """
    others = check_formats(formats)
    activation = activation_of(config.train.loss_type)
    with new_version(path, version) as (part, final):
        module = ServingModule(model, config.eval.isize, config.data, class_names, activation)
        questions = ask_model(model, config)
        with writing(f"the export to {path}"):
            tf.saved_model.save(module, part, signatures=module.signatures())
            write_labels(part, class_names)
            write_warmup(part, config.eval.isize)
            write_expected(part, questions)
            of_formats = write_formats(others, module.graph, model, config, part)
        difference, signatures = _read_back(part, questions)
        with writing(f"the export to {path}"):
            write_card(
                part,
                model,
                config,
                weights=weights or {},
                metrics=metrics,
                signatures=signatures,
                difference=difference,
                formats=of_formats,
            )
    return final


def compare_with_model(path: str, model: keras.Model, config: Config) -> float:
    """Reads an export back and compares it with the model on images given as bytes and pixels.

    Returns the largest difference of any score.
    Raises: ExportMismatch if a signature is missing, or a score differs by more than 1e-4.
    """
    return _read_back(path, ask_model(model, config))[0]


def _read_back(path: str, questions: Questions) -> tuple[float, dict]:
    """Returns the difference, see `compare_with_model`, and the signatures that were read."""
    loaded = tf.saved_model.load(path)
    missing = set(SIGNATURES) - set(loaded.signatures)
    if missing:
        raise ExportMismatch(f"{path} lacks the signatures {', '.join(sorted(missing))}")
    difference = score_difference(loaded, questions)
    if not difference <= MAX_DIFFERENCE:
        raise ExportMismatch(f"{path} differs from the model by {difference} in a score")
    return difference, signatures_of(loaded)
