"""A network as an OpenVINO model, `model.xml` and `model.bin`; needs requirements-export.txt."""

import os
import tempfile
from collections.abc import Callable

import numpy as np
from tensorflow.core.framework.graph_pb2 import GraphDef

from export.frozen import INPUT


def write_openvino(graph_def: GraphDef, image_size: int, path: str) -> None:
    """Writes the part of a frozen graph that makes `scores` to `path`, NAME.xml, and NAME.bin.

    Shapes: `images` float32 [N, S, S, 3], pixels in [0, 255] -> `scores` float32 [N, K]; N is free.
    Weights are float32. The frozen graph is read as it is: by way of ONNX it is as fast.
    """
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        frozen = os.path.join(folder, "frozen.pb")
        with open(frozen, "wb") as file:
            file.write(graph_def.SerializeToString())
        read = openvino.Core().read_model(frozen)
        scores = next(tensor for tensor in read.outputs if "scores:0" in tensor.names)
        model = openvino.Model([scores.node], read.get_parameters(), "efficientnetv2")
        model.inputs[0].tensor.set_names({INPUT})
        model.outputs[0].tensor.set_names({"scores"})
        model.reshape({INPUT: [-1, image_size, image_size, 3]})
        openvino.save_model(model, path, compress_to_fp16=False)


def load_openvino(path: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns `classify(images) -> scores` of a file that `write_openvino` wrote, on CPUs.

    Shapes: float32 or uint8 [N, S, S, 3] in [0, 255] -> float32 [N, K]. It computes in float32;
    OpenVINO's default is bfloat16 where a CPU has it, which moves scores by several percent.
    """
    import openvino

    core = openvino.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(path), "CPU", settings)

    def classify(images: np.ndarray) -> np.ndarray:
        return compiled({INPUT: images.astype(np.float32)})["scores"]

    return classify
