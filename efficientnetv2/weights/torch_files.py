"""Reader of PyTorch state dicts of timm and torchvision, in `.safetensors` or `.pth` files."""

import argparse
import json
import os
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping

import ml_dtypes  # noqa: F401 - Registers bfloat16 with NumPy.
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.text import one_line
from efficientnetv2.weights.stored import Stored
from efficientnetv2.weights.torch_names import (
    TIMM_STEM,
    TORCHVISION_STEM,
    of_timm,
    timm_stored,
    torchvision_stored,
)

MIN_TORCH = (2, 10)  # Before, a malicious file could bypass `weights_only`: CVE-2026-24747.
# Keys of state dicts in checkpoints of timm's and torchvision's training scripts.
_AVERAGED = ("state_dict_ema", "model_ema")
_PLAIN = ("state_dict", "model")
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")  # DataParallel, averages, torch.compile.
_UPDATES = ".num_batches_tracked"
_UNREADABLE = (  # Errors raised for a damaged or malicious pickle in a zip file.
    *(OSError, zipfile.BadZipFile, zlib.error, RuntimeError, ValueError),
    *(pickle.PickleError, struct.error, EOFError, LookupError, TypeError, AttributeError),
)


def read_torch_file(path: str, use_ema: bool = True) -> Stored:
    """Reads a state dict of timm or torchvision, or a checkpoint of their training scripts.

    With `use_ema`, averaged weights of the latter are read if there are any. Nothing in a pickle is
    executed. Half precision is converted to float32. A timm `config.json` next to the file
    specifies architecture (see `timm_stored`), image size and normalization.
    Raises: UserError if the file cannot be read, needs PyTorch `MIN_TORCH` or newer, which is not
    installed, or contains anything else.
    """
    tensors, used_ema, architecture = _read(path, use_ema)
    tensors = {_WRAPPERS.sub("", name): array for name, array in tensors.items()}
    updated = any(array.any() for name, array in tensors.items() if name.endswith(_UPDATES))
    arrays = {
        name: array
        for name, array in tensors.items()
        if not name.endswith(_UPDATES) and name != "n_averaged"  # Counters.
    }
    if TIMM_STEM in arrays:
        config = _config_beside(path)
        named = config.get("architecture")
        architecture = named if isinstance(named, str) else architecture
        return timm_stored(path, arrays, used_ema, architecture, updated, of_timm(config))
    if TORCHVISION_STEM in arrays:
        return torchvision_stored(path, arrays, used_ema)
    some = ", ".join(sorted(arrays)[:3]) or "no tensors"
    raise UserError(
        f"{path} is no state dict of an EfficientNet of timm or torchvision; it holds {some}"
    )


def _read(path: str, use_ema: bool) -> tuple[dict[str, np.ndarray], bool, str | None]:
    """Returns the tensors, whether they are averages, and the architecture that the file names."""
    if not path.endswith(".safetensors"):
        return _unwrap(path, _torch_load(path), use_ema)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, TypeError) as error:  # TypeError: not a NumPy dtype.
        raise _unreadable(path, error) from error
    arrays = {name: array.astype(np.float32, copy=False) for name, array in tensors.items()}
    return arrays, False, None


def _torch_load(path: str) -> object:
    try:
        import torch
    except ImportError as error:
        raise _needs_torch(path) from error
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < MIN_TORCH:
        raise _needs_torch(path)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # PyTorch does not verify checksums.
        if damaged:
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        with torch.serialization.safe_globals([argparse.Namespace]):  # The scripts' arguments.
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(
            f"{path} holds {what[1] if what else 'objects'}, and only tensors are read, as code "
            "could hide in the rest; save the state dict alone, best as .safetensors"
        ) from error
    except zipfile.BadZipFile as error:
        raise UserError(
            f"cannot read {path}: {error}; it is damaged, or older than PyTorch 1.6: then "
            "load it with torch.load(..., weights_only=True) and save it again"
        ) from error
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unwrap(path: str, content: object, use_ema: bool):
    """Returns the same as `_read`, from the content of a pickle."""
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds no state dict but a {type(content).__name__}")
    architecture = content.get("arch")
    keys = (*_AVERAGED, *_PLAIN) if use_ema else (*_PLAIN, *_AVERAGED)
    key = next((key for key in keys if isinstance(content.get(key), Mapping)), None)
    tensors = {
        str(name): tensor.detach().float().numpy()
        for name, tensor in (content if key is None else content[key]).items()
        if hasattr(tensor, "detach")  # PyTorch is not imported here.
    }
    return tensors, key in _AVERAGED, architecture if isinstance(architecture, str) else None


def _config_beside(path: str) -> dict:
    """Returns the `config.json` next to a file, as in timm's hub, or {} if there is none."""
    config_path = os.path.join(os.path.dirname(path), "config.json")
    if not os.path.exists(config_path):
        return {}
    try:
        with open(config_path, encoding="utf-8") as file:
            config = json.load(file)
    except (OSError, ValueError) as error:
        raise _unreadable(config_path, error) from error
    return config if isinstance(config, dict) else {}


def _needs_torch(path: str) -> UserError:
    version = ".".join(map(str, MIN_TORCH))
    return UserError(
        f"reading {path} needs PyTorch {version} or newer (pip install torch), "
        "or convert it to .safetensors"
    )


def _unreadable(path: str, error: Exception) -> UserError:
    reason = one_line(error)
    return UserError(f"cannot read {path}: {reason or type(error).__name__}")
