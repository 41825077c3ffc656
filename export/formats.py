"""The file formats of an export beside the SavedModel: who writes and reads each."""

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Iterable

import numpy as np
from tensorflow.core.framework.graph_pb2 import GraphDef

from export.onnx_file import load_onnx, write_onnx
from export.openvino_file import load_openvino, write_openvino
from export.tflite import load_tflite, write_tflite
from hparams import UserError


@dataclasses.dataclass(frozen=True)
class Format:
    """One file format.

    `file_name` is that in the folder of an export. `quantised`: weights or activations have fewer
    bits than float32. `needs_examples`: `write` needs images. `writes_with` and `loads_with`: the
    modules that are not in requirements.txt.
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
        """Writes `folder/file_name` and returns its path; `examples` as `write_tflite` says.

        Raises: UserError if a package is missing, or examples are that are needed.
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
        """Raises: UserError if a package to write or to load the format is missing."""
        self._check((*self.writes_with, *self.loads_with))

    def _check(self, modules: tuple[str, ...]) -> None:
        for module in modules:
            if importlib.util.find_spec(module) is None:
                raise UserError(
                    f"the format {self.name!r} needs the package {module!r}; "
                    "pip install -r requirements-export.txt"
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
