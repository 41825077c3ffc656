"""State dicts of PyTorch, in `.safetensors` or `.pth`: what is read, and whose names it has."""

import argparse
import json
import os
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping

import ml_dtypes  # noqa: F401 - Teaches NumPy bfloat16.
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

MIN_TORCH = (2, 10)  # Before, a hostile file could break out of `weights_only`: CVE-2026-24747.
# What the training scripts of timm and torchvision call a state dict.
_AVERAGED = ("state_dict_ema", "model_ema")
_PLAIN = ("state_dict", "model")
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")  # Of DataParallel, averages, torch.compile.
_UPDATES = ".num_batches_tracked"
_UNREADABLE = (  # In which ways a pickle in a zip fails that is damaged, or made to do harm.
    *(OSError, zipfile.BadZipFile, zlib.error, RuntimeError, ValueError),
    *(pickle.PickleError, struct.error, EOFError, LookupError, TypeError, AttributeError),
)


def read_torch_file(path: str, use_ema: bool = True) -> Stored:
    """Reads a state dict of timm or torchvision, or a checkpoint of their training scripts.

    Of the latter `use_ema` takes the averaged weights where there are any. Nothing in a pickle is
    executed. Half precision becomes float32. A `config.json` of timm beside the file tells its
    architecture, see `timm_stored`, image size and normalisation.
    Raises: UserError if the file cannot be read, or without PyTorch not, or holds something else.
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
    except (OSError, SafetensorError, TypeError) as error:  # TypeError: of no type of NumPy's.
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
            damaged = archive.testzip()  # PyTorch does not compare the checksums.
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
    """As `_read`, of what a pickle held."""
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
    """What a `config.json` says; timm's hub has one in each folder of weights."""
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
