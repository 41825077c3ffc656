"""File formats next to the SavedModel: TensorFlow Lite, ONNX, OpenVINO.

To add a format, add a row with its writer and loader to `FORMATS`. Each file is compared with the
network. Requires the extra `export`.
"""

import dataclasses
import functools
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
from tensorflow.core.framework.graph_pb2 import GraphDef

from efficientnetv2.common.console import show
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.text import install_command
from efficientnetv2.export.compare import (
    CALIBRATION,
    check,
    compare,
    from_split,
    scores_of_model,
    to_compare,
)
from efficientnetv2.export.frozen import INPUT
from efficientnetv2.export.tflite import load_tflite, write_tflite
from efficientnetv2.hparams import Config

OPSET = 15  # The newest that tf2onnx writes by default; any runtime since 2022 reads it.
SAVED_MODEL = "saved_model"


def write_onnx(graph_def: GraphDef, image_size: int, path: str) -> None:
    """Writes the part of a frozen graph that computes `scores` as ONNX; see `freeze`.

    Shapes: `images` float32 [N, S, S, 3], pixels in [0, 255] -> `scores` float32 [N, K]; N is free.
    Internally, channels come first: the only transpose follows the normalization.
    """
    import onnx
    import tf2onnx
    from tensorflow.python.util import deprecation

    names = {f"{INPUT}:0": INPUT, "scores:0": "scores"}
    with deprecation.silence():  # tf2onnx calls functions of TensorFlow 1.
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
    """Removes reshapes to the shape that a tensor already has.

    tf2onnx leaves two in each squeeze-and-excite. They do no work, but onnxruntime leaves its
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
    """Returns `classify(images) -> scores` of a `write_onnx` file, run by onnxruntime on CPUs.

    Shapes: float32 or uint8 [N, S, S, 3] in [0, 255] -> float32 [N, K].
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def classify(images: np.ndarray) -> np.ndarray:
        return session.run(["scores"], {INPUT: images.astype(np.float32)})[0]

    return classify


def write_openvino(graph_def: GraphDef, image_size: int, path: str) -> None:
    """Writes the part of a frozen graph that computes `scores` to `path`, NAME.xml, and NAME.bin.

    Shapes: `images` float32 [N, S, S, 3], pixels in [0, 255] -> `scores` float32 [N, K]; N is free.
    Weights are float32. The frozen graph is read directly; going through ONNX is just as fast.
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
    """Returns `classify(images) -> scores` of a `write_openvino` file, run on CPUs.

    Shapes: float32 or uint8 [N, S, S, 3] in [0, 255] -> float32 [N, K]. It computes in float32;
    by default, OpenVINO uses bfloat16 on CPUs that support it, which changes scores by several
    percent.
    """
    import openvino

    core = openvino.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(path), "CPU", settings)

    def classify(images: np.ndarray) -> np.ndarray:
        return compiled({INPUT: images.astype(np.float32)})["scores"]

    return classify


@dataclasses.dataclass(frozen=True)
class Format:
    """A file format.

    `file_name`: the name in the folder of an export. `quantised`: weights or activations have fewer
    bits than float32. `needs_examples`: `write` needs images. `writes_with` and `loads_with`: the
    required modules that are not in requirements.txt.
    """

    name: str
    file_name: str
    writer: Callable[..., None]
    loader: Callable[[str], Callable[[np.ndarray], np.ndarray]]
    quantised: bool = False
    needs_examples: bool = False
    writes_with: tuple[str, ...] = ()
    loads_with: tuple[str, ...] = ()

    def write(
        self,
        graph_def: GraphDef,
        image_size: int,
        folder: str,
        examples: Iterable[np.ndarray] | None = None,
    ) -> str:
        """Writes `folder/file_name` and returns its path; `examples` as for `write_tflite`.

        Raises: UserError if a package or required examples are missing.
        """
        self.check_installed()
        path = os.path.join(folder, self.file_name)
        more = {"examples": examples} if self.needs_examples else {}
        self.writer(graph_def, image_size, path, **more)
        return path

    def load(self, folder: str) -> Callable[[np.ndarray], np.ndarray]:
        """Returns `classify(images) -> scores`: float32 or uint8 [N, S, S, 3] -> float32 [N, K].

        Raises: UserError if a package or the file is missing.
        """
        self._check(self.loads_with)
        path = os.path.join(folder, self.file_name)
        if not os.path.exists(path):
            raise UserError(f"no {self.file_name} in {folder}; export it as {self.name!r} first")
        return self.loader(path)

    def check_installed(self) -> None:
        """Checks the packages to write and load the format. Raises: UserError if one is missing."""
        self._check((*self.writes_with, *self.loads_with))

    def _check(self, modules: tuple[str, ...]) -> None:
        for module in modules:
            if importlib.util.find_spec(module) is None:
                raise UserError(
                    f"the format {self.name!r} needs the package {module!r}; "
                    f"{install_command('export')}"
                )


def _tflite(kind: str) -> Callable[..., None]:
    def write(graph_def, image_size, path, examples=None):
        write_tflite(graph_def, image_size, path, kind=kind, examples=examples)

    return write


FORMATS = {
    row.name: row
    for row in (
        Format("tflite", "model.tflite", _tflite("float32"), load_tflite),
        Format("tflite_fp16", "model_fp16.tflite", _tflite("float16"), load_tflite, quantised=True),
        Format(
            "tflite_int8",
            "model_int8.tflite",
            _tflite("int8"),
            load_tflite,
            quantised=True,
            needs_examples=True,
        ),
        Format(
            "onnx",
            "model.onnx",
            write_onnx,
            load_onnx,
            writes_with=("onnx", "tf2onnx"),
            loads_with=("onnxruntime",),
        ),
        Format(
            "openvino",
            "model.xml",
            write_openvino,
            load_openvino,
            writes_with=("openvino",),
            loads_with=("openvino",),
        ),
    )
}


def find_format(name: str) -> Format:
    """Returns the row of a format. Raises: UserError for an unknown name."""
    if name not in FORMATS:
        raise UserError(f"unknown format {name!r}; known are {', '.join(FORMATS)}")
    return FORMATS[name]


def check_formats(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the formats to write in addition to the SavedModel, without duplicates.

    Raises: UserError for an unknown name, or a package that is not installed.
    """
    for name in names:
        if name != SAVED_MODEL and name not in FORMATS:
            known = ", ".join((SAVED_MODEL, *FORMATS))
            raise UserError(f"unknown --export_format={name!r}; known are {known}")
    others = tuple(dict.fromkeys(name for name in names if name != SAVED_MODEL))
    for name in others:
        find_format(name).check_installed()
    return others


def write_formats(
    names: Sequence[str], graph_def: GraphDef, model: keras.Model, config: Config, folder: str
) -> dict[str, dict]:
    """Writes a file of each format; returns their entries in the model card.

    An entry has the largest difference of any score, the agreement and the accuracies, on examples
    of the `eval` split. 8-bit formats are calibrated on examples of `train`.

    Raises: UserError if examples are needed and the data set is missing; ExportMismatch if a
    format without quantization differs by more than 1e-4.
    """
    if not names:
        return {}
    of_model = functools.partial(scores_of_model, model, config)
    images, examples = to_compare(config), None
    show(f"formats are compared with the network on {images.origin}")
    if any(find_format(name).needs_examples for name in names):
        examples = from_split(config, "train", CALIBRATION).pixels
    found = {}
    for name in names:
        row = find_format(name)
        path = row.write(graph_def, config.eval.isize, folder, examples=examples)
        parity = compare(row.load(folder), of_model, images.pixels, images.labels)
        warnings = check(parity, name, quantised=row.quantised)
        megabytes = os.path.getsize(path) / 1e6
        show(f"{name:12} {row.file_name} {megabytes:.1f} MB: {parity}")
        for line in warnings:
            show(f"  warning: {line}")
        found[name] = {
            "file": row.file_name,
            "compared_on": images.origin,
            **dataclasses.asdict(parity),
            "warnings": warnings,
        }
    return found
