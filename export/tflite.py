"""A network as a TensorFlow Lite file: float32, float16 weights or 8-bit integers."""

import os
import warnings
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef

from export.frozen import INPUT
from export.quantisation import with_ranges
from hparams import UserError

KINDS = ("float32", "float16", "int8")


def write_tflite(
    graph_def: GraphDef,
    image_size: int,
    path: str,
    *,
    kind: str,
    examples: Iterable[np.ndarray] | None = None,
) -> None:
    """Writes the part of a frozen graph that makes `scores`; see `freeze`.

    Shapes: `images` [1, S, S, 3] -> `scores` float32 [1, K]; pixels in [0, 255] are float32, for
    int8 uint8. The batch is fixed, as phones' accelerators want it; `resize_tensor_input` takes
    any, except where there is group normalisation, which TensorFlow Lite cannot resize.

    Args:
        kind: "float32"; "float16": weights at half size, computed with in float32 where the
            runtime has nothing better; "int8": activations, and weights by the channel. The
            classifier stays in float, as 256 levels are too few for small scores.
        examples: float32 images [S, S, 3] in [0, 255] as in training, for the ranges of int8.

    Raises: UserError for int8 without examples, or an unknown kind.
    """
    if kind not in KINDS:
        raise UserError(f"a TensorFlow Lite file is one of {', '.join(KINDS)}, not {kind!r}")
    if kind == "int8":
        known = list(() if examples is None else examples)
        if not known:
            raise UserError("int8 needs examples of images; give a data set to export with")
        graph_def = with_ranges(graph_def, known)
    network = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([1, image_size, image_size, 3], name=INPUT)])
    def classify(images):
        (scores,) = tf.graph_util.import_graph_def(graph_def, {INPUT: images}, ["scores:0"])
        return {"scores": scores}

    network.classify = classify
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [classify.get_concrete_function()], network
    )
    if kind != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if kind == "int8":
        converter.inference_input_type = tf.uint8
    with warnings.catch_warnings():  # The ranges are in the graph.
        warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected")
        content = converter.convert()
    with open(path, "wb") as file:
        file.write(content)


def load_tflite(path: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns `classify(images) -> scores` of a file that `write_tflite` wrote.

    Shapes: float32 or uint8 [N, S, S, 3] in [0, 255] -> float32 [N, K]. LiteRT's interpreter
    runs it where it is installed, else TensorFlow's; on all CPUs of this process, image by image:
    batches are no faster.
    """
    interpreter = open_interpreter(path, len(os.sched_getaffinity(0)))
    interpreter.allocate_tensors()
    images_at, scores_at = (
        ends[0]["index"]
        for ends in (interpreter.get_input_details(), interpreter.get_output_details())
    )
    dtype = interpreter.get_input_details()[0]["dtype"]

    def classify(images: np.ndarray) -> np.ndarray:
        if dtype == np.uint8:
            images = np.clip(np.round(images), 0, 255)
        scores = []
        for image in images.astype(dtype):
            interpreter.set_tensor(images_at, image[np.newaxis])
            interpreter.invoke()
            scores.append(interpreter.get_tensor(scores_at)[0])
        return np.stack(scores)

    return classify


def open_interpreter(path: str, num_threads: int):
    """Returns LiteRT's interpreter of a file, or TensorFlow's where LiteRT is not installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        with warnings.catch_warnings():  # That TensorFlow's is to go.
            warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated", UserWarning)
            return tf.lite.Interpreter(path, num_threads=num_threads)
    return Interpreter(path, num_threads=num_threads)
