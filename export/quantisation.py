"""Ranges of activations for 8-bit integers, measured on images and written into a frozen graph.

TensorFlow Lite's own calibration takes each tensor from its least to its greatest value. After
SiLU those are set by few outliers, and the rest shares a handful of the 256 levels; here a
ten-thousandth of the values is cut off at both ends.
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from export.frozen import INPUT

CUT_OFF = 1e-4  # The share of values beyond each end of a range, in a batch.
BATCH = 8
# What has no range of its own: constants, what only moves values, and outputs in float32.
_WITHOUT_RANGE = {"Const", "Placeholder", "Identity", "Softmax"} | {
    *("Reshape", "Squeeze", "Pad", "PadV2", "Transpose", "ExpandDims", "Shape", "StridedSlice"),
}
_FUSED_INTO = {  # What TensorFlow Lite computes in one step with the operation before.
    "BiasAdd": ("Conv2D", "DepthwiseConv2dNative", "MatMul"),
    "Relu": ("BiasAdd", "AddV2"),
    "Relu6": ("BiasAdd", "AddV2"),
}
_FIXED = {"Sigmoid": (0.0, 255 / 256), "Tanh": (-1.0, 127 / 128)}  # As its kernels demand.


def with_ranges(graph_def: GraphDef, examples: Iterable[np.ndarray]) -> GraphDef:
    """Returns the graph with a FakeQuant operation behind each activation.

    Shapes: examples are float32 [S, S, 3] in [0, 255]. A range is the mean over batches of 8; it
    contains 0. The input has [0, 255], so that its levels are the 256 values of a byte.
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
    """Names of the nodes whose values TensorFlow Lite stores, but for logits and scores."""
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
    """Lower and upper ends, float [len(names), 2]."""

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
