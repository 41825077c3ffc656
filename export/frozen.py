"""Frozen inference graphs: weights become constants, BatchNorm is folded into convolutions."""

from collections import Counter

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

INPUT, OUTPUTS = "images", ("scores", "logits", "features")
ACTIVATIONS = {"softmax": tf.nn.softmax, "sigmoid": tf.nn.sigmoid}
_FILTER_SCALES = {  # Shapes a scale so that it multiplies the output channels of the filters.
    "Conv2D": lambda scale, filters: scale,
    "DepthwiseConv2dNative": lambda scale, filters: scale.reshape(filters.shape[2:]),
}


def freeze(model: keras.Model, image_size: int, activation: str = "softmax") -> GraphDef:
    """Returns the graph from `images` to `scores`, `logits` and `features`, without variables.

    Shapes: float32 [N, S, S, 3], pixels in [0, 255] -> float32 [N, K] probabilities, [N, K] and
    [N, C] pooled features. `activation`, "softmax" or "sigmoid", turns logits into scores.
    BatchNorm is in inference mode. After a convolution, it is folded into the filters and a bias;
    pixel normalization is folded into the stem. So results differ from the model's by rounding.
    """
    both = keras.Model(model.input, [model.output, model.get_layer("head_pool").output])

    @tf.function(
        input_signature=[tf.TensorSpec([None, image_size, image_size, 3], tf.float32, INPUT)]
    )
    def network(images):
        logits, features = (tf.cast(x, tf.float32) for x in both(images, training=False))
        return ACTIVATIONS[activation](logits), logits, features

    frozen = convert_variables_to_constants_v2(network.get_concrete_function())
    graph = _Graph(frozen.graph.as_graph_def())
    graph.name_outputs([tensor.name for tensor in frozen.outputs])
    graph.drop_identities()
    graph.fold_batch_norms()
    graph.fold_pixel_scale(image_size)
    return graph.rebuilt()


def as_function(graph_def: GraphDef):
    """Returns `function(images) -> (scores, logits, features)`; all callers share its graph."""

    def imported():
        tf.graph_util.import_graph_def(graph_def, name="")

    wrapped = tf.compat.v1.wrap_function(imported, [])
    return wrapped.prune(f"{INPUT}:0", [f"{name}:0" for name in OUTPUTS])


class _Graph:
    """Graph nodes by name; an input is "NAME", "NAME:1" or, for a control input, "^NAME"."""

    def __init__(self, graph_def: GraphDef):
        self.versions = graph_def.versions
        self.nodes = {node.name: node for node in graph_def.node}

    def name_outputs(self, tensors: list[str]) -> None:
        for name, tensor in zip(OUTPUTS, tensors, strict=True):
            node = NodeDef(name=name, op="Identity", input=[tensor.removesuffix(":0")])
            node.attr["T"].type = tf.float32.as_datatype_enum
            self.nodes[name] = node

    def drop_identities(self) -> None:
        """Bypasses identities, which custom gradients leave behind, and drops control inputs."""

        def source(name: str) -> str:
            node = self.nodes[name.split(":")[0].removeprefix("^")]
            if name.startswith("^") or node.op not in ("Identity", "IdentityN"):
                return name
            return source(node.input[int(name.partition(":")[2] or 0)])

        for node in self.nodes.values():
            kept = [name for name in map(source, node.input) if not name.startswith("^")]
            node.ClearField("input")
            node.input.extend(kept)

    def fold_batch_norms(self) -> None:
        """Rewrites conv(x, w) * scale + shift as conv(x, w * scale) + shift."""
        readers = Counter(name for node in self.nodes.values() for name in node.input)
        for node in [n for n in self.nodes.values() if n.op == "FusedBatchNormV3"]:
            conv = self.nodes[node.input[0].split(":")[0]]
            constant = all(self._is_constant(name) for name in (*node.input[1:], *conv.input[1:]))
            alone = readers[conv.name] == 1
            if conv.op in _FILTER_SCALES and constant and alone:
                self._fold(conv, node)

    def fold_pixel_scale(self, width: int) -> None:
        """Rewrites conv(images * scale + offset, w) as conv(images + offset / scale, w * scale).

        Zero padding of the images stays zero. The added constant is as wide as an image, which
        all runtimes add faster than three numbers per pixel.
        """
        readers = Counter(name for node in self.nodes.values() for name in node.input)
        for conv in [n for n in self.nodes.values() if n.op == "Conv2D"]:
            chain = self._chain(conv.input[0], ("Pad", "AddV2", "Mul"))
            if [node.op for node in chain][-2:] != ["AddV2", "Mul"] or chain[-1].input[0] != INPUT:
                continue
            add, mul = chain[-2:]
            constants = mul.input[1], add.input[1], conv.input[1]
            alone = all(readers[node.name] == 1 for node in chain)
            if not alone or not all(self._is_constant(name) for name in constants):
                continue
            scale, offset, filters = (self._value(name).astype(np.float64) for name in constants)
            per_channel = np.broadcast_to(scale, filters.shape[2])[:, None]
            conv.input[1] = self._constant(f"{conv.name}/scaled", filters * per_channel)
            row = np.broadcast_to(offset / scale, [1, 1, width, filters.shape[2]])
            add.input[:] = [INPUT, self._constant(f"{add.name}/row", row)]

    def _chain(self, name: str, ops: tuple[str, ...]) -> list[NodeDef]:
        """Returns the nodes with these `ops`, in this order, upstream of `name` by first inputs."""
        chain = []
        for op in ops:
            node = self.nodes[name.split(":")[0]]
            if node.op == op:
                chain.append(node)
                name = node.input[0]
        return chain

    def _fold(self, conv: NodeDef, norm: NodeDef) -> None:
        gamma, beta, mean, variance = (self._value(n).astype(np.float64) for n in norm.input[1:])
        scale = gamma / np.sqrt(variance + norm.attr["epsilon"].f)
        filters = self._value(conv.input[1])
        folded = filters * _FILTER_SCALES[conv.op](scale, filters)
        conv.input[1] = self._constant(f"{conv.name}/folded", folded)
        shift = self._constant(f"{norm.name}/shift", beta - mean * scale)
        biased = NodeDef(name=norm.name, op="BiasAdd", input=[conv.name, shift])
        biased.attr["T"].type = tf.float32.as_datatype_enum
        self.nodes[norm.name] = biased

    def _is_constant(self, name: str) -> bool:
        return self.nodes[name.split(":")[0]].op == "Const"

    def _value(self, name: str) -> np.ndarray:
        return tf.make_ndarray(self.nodes[name].attr["value"].tensor)

    def _constant(self, name: str, value: np.ndarray) -> str:
        node = NodeDef(name=name, op="Const")
        node.attr["dtype"].type = tf.float32.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value.astype(np.float32)))
        self.nodes[name] = node
        return name

    def rebuilt(self) -> GraphDef:
        """Returns the graph of all nodes that the outputs need, in topological order."""
        found: dict[str, NodeDef] = {}
        waiting = [(name, False) for name in reversed(OUTPUTS)]
        while waiting:
            name, ready = waiting.pop()
            if name in found:
                continue
            if ready:
                found[name] = self.nodes[name]
                continue
            waiting.append((name, True))
            waiting += [(read.split(":")[0], False) for read in self.nodes[name].input]
        return GraphDef(node=found.values(), versions=self.versions)
