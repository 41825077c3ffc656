"""Reads the arrays of Keras' files (`.h5`, `.weights.h5`, `.keras`) and their configuration.

Only numbers and JSON are read: nothing of what a file describes is built or run, and no other
file that it may point to is opened.
"""

import dataclasses
import io
import json
import lzma
import re
import zipfile
import zlib

import h5py
import numpy as np

from hparams import UserError

MAX_BYTES = 8 * 2**30  # L2's 480 million weights take 2, its optimizer's slots twice that.
_BFLOAT16 = np.dtype("V2")  # As Keras 3 writes it.
_IN_LAYERS = re.compile(r"(^|/)(layers|_layer_checkpoint_dependencies)/")  # The latter: 2.13.
_DAMAGE = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    RecursionError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


@dataclasses.dataclass(frozen=True)
class KerasFile:
    """What a file holds.

    `arrays` are the floating-point ones. With `by_name` their names are `stem_conv/kernel`: layer
    and weight. Otherwise the file does not know its layers' names, and an array is under its path
    there, `layers/conv2d_3/vars/0`: the layer's class, counted, and the weight's number.
    `layers` are the names that the file gives to layers, those without weights among them.
    `config` describes the model, None where only weights were saved.
    """

    arrays: dict[str, np.ndarray]
    by_name: bool
    layers: frozenset[str]
    config: dict | None


def open_keras_file(path: str) -> KerasFile:
    """Reads a whole file; what it is follows from its content.

    Raises: UserError if it is damaged or neither HDF5 nor an archive of Keras, or too large.
    """
    try:
        with open(path, "rb"):  # Says why, if it cannot be opened.
            pass
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                return _read(file, _json(file.attrs.get("model_config")))
        if zipfile.is_zipfile(path):
            return _read_archive(path)
    except UserError as error:
        raise UserError(f"{path} {error}") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot read {path}: {reason}; it may be cut short or damaged") from error
    raise UserError(f"cannot read {path}: it is neither an HDF5 file nor a .keras archive")


def _read_archive(path: str) -> KerasFile:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        for needed in ("config.json", "model.weights.h5"):
            if needed not in members:
                raise UserError(f"is no .keras archive: it lacks {needed}")
            _check_size(members[needed].file_size, needed)
        config = _json(archive.read("config.json"))
        with h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as file:
            return _read(file, config)


def _read(file: h5py.File, config: dict | None) -> KerasFile:
    """Links are not followed."""
    datasets, groups = {}, []

    def visit(name, item):
        name = name.replace("\\", "/")  # Keras before 3 on Windows.
        if isinstance(item, h5py.Dataset):
            datasets[name] = item
        else:
            groups.append(name)

    file.visititems(visit)
    if "model_weights" in groups:  # Beside the optimizer's.
        root = "model_weights/"
        datasets = {name: item for name, item in datasets.items() if name.startswith(root)}
    by_name = not any(re.search(r"(^|/)vars/\d+$", name) for name in datasets)
    if not by_name:  # Beside the optimizer's and the metrics'.
        datasets = {name: item for name, item in datasets.items() if _IN_LAYERS.search(name)}
    arrays, num_bytes = {}, 0
    for name, dataset in datasets.items():
        if dataset.dtype.kind != "f" and dataset.dtype != _BFLOAT16:  # Seeds and counters.
            continue
        if dataset.is_virtual or dataset.external:
            raise UserError(f"keeps {name} in another file; save it as one")
        num_bytes += dataset.nbytes
        _check_size(num_bytes, name)
        if by_name:
            name = "/".join(name.split("/")[-2:]).split(":")[0]
        if name in arrays:
            raise UserError(f"holds {name} twice; save the one network that is meant")
        arrays[name] = _float32(dataset[()])
    return KerasFile(arrays, by_name, frozenset(name.split("/")[-1] for name in groups), config)


def _float32(array: np.ndarray) -> np.ndarray:
    if array.dtype == _BFLOAT16:  # The upper half of a float32.
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.asarray(array, np.float32)


def _json(text: str | bytes | None) -> dict | None:
    config = None if text is None else json.loads(text)
    if config is not None and not isinstance(config, dict):
        raise UserError("has a configuration that is no JSON object")
    return config


def _check_size(num_bytes: int, name: str):
    if num_bytes > MAX_BYTES:
        raise UserError(f"breaks the limit of {MAX_BYTES} bytes with {name}")
