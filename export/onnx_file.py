"""A network as an ONNX file, by tf2onnx; needs requirements-export.txt."""

from collections.abc import Callable

import numpy as np
from tensorflow.core.framework.graph_pb2 import GraphDef

from export.frozen import INPUT

OPSET = 15  # The newest that tf2onnx writes by default; any runtime since 2022 reads it.


def write_onnx(graph_def: GraphDef, image_size: int, path: str) -> None:
    """Writes the part of a frozen graph that makes `scores`; see `freeze`.

    Shapes: `images` float32 [N, S, S, 3], pixels in [0, 255] -> `scores` float32 [N, K]; N is free.
    Inside, channels come first: one transpose after the normalisation, none behind it.
    """
    import onnx
    import tf2onnx
    from tensorflow.python.util import deprecation

    names = {f"{INPUT}:0": INPUT, "scores:0": "scores"}
    with deprecation.silence():  # It calls functions of TensorFlow 1.
        model, _ = tf2onnx.convert.from_graph_def(
            graph_def,
            name="efficientnetv2",
            input_names=[f"{INPUT}:0"],
            output_names=["scores:0"],
            opset=OPSET,
            tensors_to_rename=names,
            shape_override={f"{INPUT}:0": [None, image_size, image_size, 3]},
        )
    for value in (*model.graph.input, *model.graph.output):
        batch = value.type.tensor_type.shape.dim[0]
        batch.Clear()
        batch.dim_param = "N"
    _drop_idle_reshapes(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _drop_idle_reshapes(model) -> None:
    """Removes reshapes to the shape that a tensor has.

    tf2onnx leaves two in each squeeze-and-excite. They are free of work, but onnxruntime leaves its
    blocked layout for them: 16 ms instead of 12 for a B0.
    """
    import onnx

    graph = model.graph
    known = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in known.value_info
    }
    constants = {value.name: value for value in graph.initializer}
    same, kept = {}, []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
        if node.op_type == "Reshape" and node.input[1] in constants:
            target = onnx.numpy_helper.to_array(constants[node.input[1]]).tolist()
            shape = shapes.get(node.input[0], [])
            if target[0] == -1 and target[1:] == shape[1:]:
                same[node.output[0]] = node.input[0]
                continue
        kept.append(node)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
    read = {name for node in kept for name in node.input}
    unread = [value for value in graph.initializer if value.name not in read]
    for value in unread:
        graph.initializer.remove(value)


def load_onnx(path: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns `classify(images) -> scores` of a file by `write_onnx`, run by onnxruntime on CPUs.

    Shapes: float32 or uint8 [N, S, S, 3] in [0, 255] -> float32 [N, K].
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def classify(images: np.ndarray) -> np.ndarray:
        return session.run(["scores"], {INPUT: images.astype(np.float32)})[0]

    return classify
