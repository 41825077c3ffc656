"""Names, layouts and preprocessing of PyTorch state dicts of timm and torchvision.

timm: `blocks.1.0.conv_dw.weight`; source: timm/models/efficientnet.py, _efficientnet_blocks.py.
torchvision: `features.2.0.block.1.0.weight`; source: torchvision/models/efficientnet.py.
Both evaluate with antialiased resizing, which we do not support, so crop and resize method are not
adopted.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping

import keras
import numpy as np
from absl import logging

from efficientnetv2.common.errors import UserError
from efficientnetv2.network.blocks import FusedMBConv, MBConv
from efficientnetv2.network.compat import var_path
from efficientnetv2.network.layers import IMAGENET_MEAN, IMAGENET_STD
from efficientnetv2.weights.stored import EPSILON, Preprocessing, Stored, with_our_epsilon

_LAYOUTS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_NORMALIZATION_KINDS = {
    (IMAGENET_MEAN, IMAGENET_STD): "imagenet",
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)): "inception",
}
_V2_L_BLOCKS = 79
TIMM_STEM = "conv_stem.weight"
_TIMM_BLOCK = r"(blocks\.(\d+)\.(\d+))\."
_OUTER = {
    "stem_conv": "conv_stem",
    "stem_bn": "bn1",
    "head_conv": "conv_head",
    "head_bn": "bn2",
    "classifier": "classifier",
}
_CONVOLUTIONS = {
    ("expand", "depthwise", "project"): ("conv_pw", "conv_dw", "conv_pwl"),
    ("depthwise", "project"): ("conv_dw", "conv_pw"),
    ("expand", "project"): ("conv_exp", "conv_pwl"),
    ("project",): ("conv",),
}
_SE = {"se/reduce_conv": "se.conv_reduce", "se/expand_conv": "se.conv_expand"}
_ARCHITECTURE = re.compile(r"(tf_)?efficientnet(v2)?_(.*)")
_VARIANT = re.compile(r"(b\d|[sml]|xl|l2)(_(ap|ns|ns_475|in21k|in21ft1k))?")
_PYTORCH_EPSILON = 1e-5
TORCHVISION_STEM = "features.0.0.weight"
_TORCHVISION_BLOCK = r"(features\.(\d+)\.(\d+)\.block)\."
_V1_EPSILON = 1e-5
_V1_B5_BLOCKS = 39  # B5 and larger are ports of the official weights, with their epsilon.


def block_scopes(names: Iterable[str], pattern: str) -> list[str]:
    """Returns the scopes of a file's blocks, such as "blocks.2.0", by stage and position in it.

    `pattern` matches the start of a name; its groups are the scope and its two numbers.
    """
    matches = (re.match(pattern, name) for name in names)
    found = {(int(match[2]), int(match[3])): match[1] for match in matches if match}
    return [scope for _, scope in sorted(found.items())]


def torch_names(
    model: keras.Model,
    outer: Mapping[str, str],
    blocks: list[str],
    sublayers: Callable[[list[str]], dict[str, str]],
) -> dict[str, str]:
    """Returns {our path: name} for the weights that have a counterpart in the file.

    `outer` maps our layers outside of blocks to scopes. `blocks` are the scopes of the file's
    blocks; our i-th block is the i-th of them, so that the stages need not be known. `sublayers`
    maps the parts of a block in order of use, out of "expand", "depthwise", "se" and "project", to
    {our sublayer: scope in the block}.
    """
    names = {}
    for layer in model.layers:
        scopes = {}
        if layer.name in outer:
            scopes[layer.name] = outer[layer.name]
        elif isinstance(layer, (MBConv, FusedMBConv)):
            index = int(layer.name.removeprefix("blocks_"))
            for block in blocks[index : index + 1]:
                for sublayer, scope in sublayers(_parts(layer)).items():
                    scopes[f"{layer.name}/{sublayer}"] = f"{block}.{scope}"
        for path in map(var_path, layer.weights):
            scope, _, kind = path.rpartition("/")
            if scope in scopes:
                names[path] = f"{scopes[scope]}.{_LAYOUTS[kind]}"
    return names


def _parts(block: MBConv | FusedMBConv) -> list[str]:
    names = [layer.name for layer in block.steps]
    return [name.removesuffix("_conv") for name in names if name == "se" or name.endswith("_conv")]


def to_ours(path: str, array: np.ndarray, epsilon: float = EPSILON) -> np.ndarray:
    """Converts an array, trained with `epsilon`, to the layout of the weight at `path`.

    Shapes: convolutions [out, in, h, w] -> [h, w, in, out]; depthwise [C, 1, h, w] -> [h, w, C, 1];
    dense [out, in] -> [in, out]; for a variance see `with_our_epsilon`.
    """
    if path.endswith("/kernel") and array.ndim == 4:
        return array.transpose((2, 3, 0, 1) if "/depthwise_conv/" in path else (2, 3, 1, 0))
    if path.endswith("/kernel") and array.ndim == 2:
        return array.T
    return with_our_epsilon(epsilon, path, array)


def of_timm(config: dict) -> Preprocessing | None:
    """Reads the `pretrained_cfg` of a `config.json` of timm's hub; None if it has none."""
    described = config.get("pretrained_cfg")
    if not isinstance(described, dict):
        return None
    size = described.get("test_input_size") or described.get("input_size")
    mean_std = tuple(tuple(described.get(key) or ()) for key in ("mean", "std"))
    return Preprocessing(
        image_size=size[-1] if isinstance(size, list) and size else None,
        crop=None,
        resize_method=None,
        normalization=_NORMALIZATION_KINDS.get(mean_std),
    )


def of_torchvision(blocks: int, num_classes: int | None) -> Preprocessing:
    """Infers the preprocessing from the number of blocks. Source: torchvision's presets.

    All networks are trained with the ImageNet mean and standard deviation, except the published
    V2-L, which is a port of the official weights.
    """
    ported = blocks == _V2_L_BLOCKS and num_classes == 1000
    return Preprocessing(None, None, None, "inception" if ported else "imagenet")


def timm_stored(
    path: str,
    arrays: Mapping[str, np.ndarray],
    used_ema: bool,
    architecture: str | None,
    updated: bool,
    preprocessing: Preprocessing | None = None,
) -> Stored:
    """Returns the weights in a state dict of timm's `EfficientNet`.

    A state dict does not distinguish `tf_efficientnet_b0`, which pads like TensorFlow, from
    `efficientnet_b0`, which pads like PyTorch and has a different epsilon. `architecture` does, if
    the file or its `config.json` names it. Otherwise the former is assumed, with a warning if the
    statistics were `updated` in PyTorch, since those of converted weights never are.
    Raises: UserError for an architecture with the same names but a different computation.
    """
    is_tf = _is_tf(path, architecture)
    if is_tf is None and updated:
        logging.warning(
            "%s was trained in PyTorch and does not name its architecture: taken for one of timm's "
            "tf_efficientnet*; for one without tf_, put timm's config.json beside it",
            path,
        )
    is_tf = is_tf is not False
    blocks = block_scopes(arrays, _TIMM_BLOCK)
    bias = arrays.get("classifier.bias")
    return Stored(
        path=path,
        format="timm",
        arrays=arrays,
        names=lambda model: torch_names(model, _OUTER, blocks, _timm_sublayers),
        to_ours=functools.partial(to_ours, epsilon=EPSILON if is_tf else _PYTORCH_EPSILON),
        classifier=("classifier.",),
        head=("conv_head.", "bn2."),
        padding="same" if is_tf else "symmetric",
        preprocessing=preprocessing,
        num_classes=None if bias is None else bias.size,
        used_ema=used_ema,
    )


def _is_tf(path: str, architecture: str | None) -> bool | None:
    """Returns whether an architecture is a port of the official one, or None if unknown."""
    name = re.split("[/:]", architecture or "")[-1].split(".")[0]  # hf-hub:timm/NAME.TAG
    match = _ARCHITECTURE.fullmatch(name)
    if match is None:
        return None
    if not _VARIANT.fullmatch(match[3]):
        raise UserError(
            f"{path} holds timm's {name}, which no network here computes; "
            "give one of tf_efficientnetv2_b0 to xl, tf_efficientnet_b0 to l2, or without tf_"
        )
    return match[1] is not None


def _timm_sublayers(parts: list[str]) -> dict[str, str]:
    """Numbers the normalizations of a block in order of use."""
    steps = tuple(part for part in parts if part != "se")
    scopes = dict(_SE)
    for number, (step, convolution) in enumerate(zip(steps, _CONVOLUTIONS[steps]), start=1):
        scopes |= {f"{step}_conv": convolution, f"{step}_bn": f"bn{number}"}
    return scopes


def torchvision_stored(path: str, arrays: Mapping[str, np.ndarray], used_ema: bool) -> Stored:
    """Returns the weights of torchvision's `efficientnet_v2_s/m/l` or `efficientnet_b0` to `b7`."""
    blocks = block_scopes(arrays, _TORCHVISION_BLOCK)
    last_stage = max((int(scope.split(".")[1]) for scope in blocks), default=0)
    head = f"features.{last_stage + 1}"
    outer = {
        "stem_conv": "features.0.0",
        "stem_bn": "features.0.1",
        "head_conv": f"{head}.0",
        "head_bn": f"{head}.1",
        "classifier": "classifier.1",
    }
    bias = arrays.get("classifier.1.bias")
    num_classes = None if bias is None else bias.size
    return Stored(
        path=path,
        format="torchvision",
        arrays=arrays,
        names=lambda model: torch_names(model, outer, blocks, _torchvision_sublayers),
        to_ours=functools.partial(to_ours, epsilon=_epsilon(arrays, blocks)),
        classifier=("classifier.",),
        head=(f"{head}.",),
        padding="symmetric",
        preprocessing=of_torchvision(len(blocks), num_classes),
        num_classes=num_classes,
        used_ema=used_ema,
    )


def _torchvision_sublayers(parts: list[str]) -> dict[str, str]:
    """Numbers the parts of a block in order of use."""
    scopes = {}
    for number, part in enumerate(parts):
        if part == "se":
            scopes |= {"se/reduce_conv": f"{number}.fc1", "se/expand_conv": f"{number}.fc2"}
        else:
            scopes |= {f"{part}_conv": f"{number}.0", f"{part}_bn": f"{number}.1"}
    return scopes


def _epsilon(arrays: Mapping[str, np.ndarray], blocks: list[str]) -> float:
    """Returns the epsilon of batch normalization, which differs for V1 up to B4.

    V1 is recognized by its first convolution, which is depthwise.
    """
    first = arrays.get("features.1.0.block.0.0.weight")
    is_v1 = first is not None and first.shape[1:2] == (1,)
    return _V1_EPSILON if is_v1 and len(blocks) < _V1_B5_BLOCKS else EPSILON
