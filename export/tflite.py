"""TensorFlow Lite files: float32, float16 weights or 8-bit integers.

TensorFlow Lite's own calibration uses the minimum and maximum of each tensor. After SiLU, these are
determined by a few outliers, and all other values share a handful of the 256 levels. Therefore
ranges of activations are measured on images, a ten-thousandth of the values is cut off at each end,
and the ranges are written into the frozen graph.
"""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from efficientnetv2.common.errors import UserError
from efficientnetv2.export.frozen import INPUT

CUT_OFF = 1e-4  # Fraction of the values of a batch beyond each end of a range.
BATCH = 8
# Operations without a range of their own: constants, data movement, and float32 outputs.
_WITHOUT_RANGE = {"Const", "Placeholder", "Identity", "Softmax"} | {
    *("Reshape", "Squeeze", "Pad", "PadV2", "Transpose", "ExpandDims", "Shape", "StridedSlice"),
}
_FUSED_INTO = {  # Operations that TensorFlow Lite fuses with the one before.
    "BiasAdd": ("Conv2D", "DepthwiseConv2dNative", "MatMul"),
    "Relu": ("BiasAdd", "AddV2"),
    "Relu6": ("BiasAdd", "AddV2"),
}
_FIXED = {"Sigmoid": (0.0, 255 / 256), "Tanh": (-1.0, 127 / 128)}  # Required by its kernels.
KINDS = ("float32", "float16", "int8")


def with_ranges(graph_def: GraphDef, examples: Iterable[np.ndarray]) -> GraphDef:
    """Returns the graph with a FakeQuant operation after each activation.

    Shapes: examples are float32 [S, S, 3] in [0, 255]. A range is the mean over batches of 8 and
    includes 0. The input's range is [0, 255], so that its levels are the 256 values of a byte.
    """
    names = _activations(graph_def)
    ranges = dict(zip(names, _measured(graph_def, names, examples), strict=True))
    nodes = {node.name: node for node in graph_def.node}
    ranges.update({n: _FIXED[nodes[n].op] for n in names if nodes[n].op in _FIXED})
    ranges[INPUT] = (0.0, 255.0)
    result = GraphDef(versions=graph_def.versions)
    for node in graph_def.node:
        copied = result.node.add()
        copied.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name.removesuffix(":0") in ranges:
                copied.input[index] = f"{name.removesuffix(':0')}/ranged"
        if node.name in ranges:
            result.node.extend(_ranged(node.name, *ranges[node.name]))
    return result


def _activations(graph_def: GraphDef) -> list[str]:
    """Returns the names of nodes whose values TensorFlow Lite stores, except logits and scores."""
    nodes = {node.name: node for node in graph_def.node}
    readers = Counter(name for node in graph_def.node for name in node.input)
    fused = {
        node.input[0]
        for node in graph_def.node
        if node.op in _FUSED_INTO
        and nodes[node.input[0].split(":")[0]].op in _FUSED_INTO[node.op]
        and readers[node.input[0]] == 1
    }
    activation = nodes[nodes["scores"].input[0]]
    in_float = {*fused, activation.name, *activation.input}
    return [
        node.name
        for node in graph_def.node
        if node.op not in _WITHOUT_RANGE
        and node.name not in in_float
        and node.attr["T"].type == tf.float32.as_datatype_enum
    ]


def _measured(graph_def: GraphDef, names: list[str], examples) -> np.ndarray:
    """Measures the lower and upper ends of the ranges, float [len(names), 2]."""

    @tf.function
    def ends(images):
        tensors = tf.graph_util.import_graph_def(
            graph_def, {INPUT: images}, [f"{name}:0" for name in names]
        )
        return tf.stack([_ends(tensor) for tensor in tensors])

    images = tf.data.Dataset.from_tensor_slices(np.stack(list(examples)).astype(np.float32))
    found = [ends(batch).numpy() for batch in images.batch(BATCH)]
    lower, upper = np.mean(found, axis=0).T
    return np.stack([np.minimum(lower, 0), np.maximum(upper, 1e-6)], axis=-1)


def _ends(tensor: tf.Tensor) -> tf.Tensor:
    values = tf.reshape(tensor, [-1])
    count = 1 + tf.cast(CUT_OFF * tf.cast(tf.size(values), tf.float32), tf.int32)
    return tf.stack(
        [-tf.math.top_k(-values, count).values[-1], tf.math.top_k(values, count).values[-1]]
    )


def _ranged(name: str, lower: float, upper: float) -> list[NodeDef]:
    ends = []
    for end, value in (("lower", lower), ("upper", upper)):
        node = NodeDef(name=f"{name}/{end}", op="Const")
        node.attr["dtype"].type = tf.float32.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.float32(value)))
        ends.append(node)
    names = [name, *(node.name for node in ends)]
    ranged = NodeDef(name=f"{name}/ranged", op="FakeQuantWithMinMaxVars", input=names)
    ranged.attr["num_bits"].i = 8
    return [*ends, ranged]


def write_tflite(
    graph_def: GraphDef,
    image_size: int,
    path: str,
    *,
    kind: str,
    examples: Iterable[np.ndarray] | None = None,
) -> None:
    """Writes the part of a frozen graph that computes `scores`; see `freeze`.

    Shapes: `images` [1, S, S, 3] -> `scores` float32 [1, K]; pixels in [0, 255] are float32, or
    uint8 for int8. The batch size is fixed, as phone accelerators require; `resize_tensor_input`
    accepts any size, except with group normalization, which TensorFlow Lite cannot resize.

    Args:
        kind: "float32"; "float16": weights of half the size, with computation in float32 unless
            the runtime has something better; "int8": 8-bit activations, and weights per channel.
            The classifier stays in float, since 256 levels are too few for small scores.
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

    Shapes: float32 or uint8 [N, S, S, 3] in [0, 255] -> float32 [N, K]. Uses LiteRT's interpreter
    if it is installed, otherwise TensorFlow's, on all CPUs of this process and image by image,
    since batches are not faster.
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
    """Returns LiteRT's interpreter of a file, or TensorFlow's if LiteRT is not installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        with warnings.catch_warnings():  # TensorFlow's interpreter is deprecated.
            warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated", UserWarning)
            return tf.lite.Interpreter(path, num_threads=num_threads)
    return Interpreter(path, num_threads=num_threads)
