"""What state dicts of PyTorch's libraries have in common: kinds of names, layouts, epsilon."""

import re
from collections.abc import Callable, Iterable, Mapping

import keras
import numpy as np

from efficientnetv2.blocks import FusedMBConv, MBConv
from efficientnetv2.compat import var_path
from efficientnetv2.weights.stored import EPSILON, with_our_epsilon

_KINDS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def block_scopes(names: Iterable[str], pattern: str) -> list[str]:
    """Returns the scopes of a file's blocks, such as "blocks.2.0", by stage and place in it.

    The groups of `pattern`, which starts a name, are the scope and its two numbers.
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
    """Returns {our path: name} for the weights that the file has a place for.

    `outer` maps our layers outside of blocks to scopes. `blocks` are the scopes of the file's
    blocks; our i-th is the i-th of them, so that nobody has to know the stages. `sublayers` maps
    the parts of a block in the order of their use, of "expand", "depthwise", "se" and "project",
    to {our sublayer: scope in the block}.
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
                names[path] = f"{scopes[scope]}.{_KINDS[kind]}"
    return names


def _parts(block: MBConv | FusedMBConv) -> list[str]:
    names = [layer.name for layer in block.steps]
    return [name.removesuffix("_conv") for name in names if name == "se" or name.endswith("_conv")]


def to_ours(path: str, array: np.ndarray, epsilon: float = EPSILON) -> np.ndarray:
    """Returns an array, trained with `epsilon`, in the layout of the weight at `path`.

    Shapes: convolutions [out, in, h, w] -> [h, w, in, out]; depthwise [C, 1, h, w] -> [h, w, C, 1];
    dense [out, in] -> [in, out]; for a variance see `with_our_epsilon`.
    """
    if path.endswith("/kernel") and array.ndim == 4:
        return array.transpose((2, 3, 0, 1) if "/depthwise_conv/" in path else (2, 3, 1, 0))
    if path.endswith("/kernel") and array.ndim == 2:
        return array.T
    return with_our_epsilon(epsilon, path, array)
