"""Names and order of EfficientNet weights in files of other Keras implementations.

Source: keras.applications (EfficientNetV2 and V1; the older `efficientnet` package uses the same
names) and keras_efficientnet_v2 1.2.2.

Keras' `.weights.h5`, also inside `.keras`, numbers the layers: `layers/conv2d_3/vars/1` is a weight
of the fourth layer of that class, in the order in which the model lists its layers. Every
functional EfficientNet lists its layers in order of use, regardless of the implementation, so the
order matches ours.
"""

import dataclasses
import re
from collections.abc import Iterable

import keras

from efficientnetv2.network.blocks import FusedMBConv, MBConv
from efficientnetv2.network.compat import var_path

_NUMBERS = {  # Index of a weight in its layer, in the order in which Keras creates them.
    "kernel": 0,
    "bias": 1,
    "gamma": 0,
    "beta": 1,
    "moving_mean": 2,
    "moving_variance": 3,
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Layer names of a package.

    `block` matches the name of a layer in a block; its groups are the stage, the block's position
    in it, and the step. `steps` and `parts` map their layers to ours, inside and outside of blocks.
    `head` lists the name prefixes of the head.
    """

    package: str
    block: re.Pattern
    steps: dict[str, str]
    parts: dict[str, str]
    head: tuple[str, ...]


LAYOUTS = (
    Layout(
        "keras.applications",
        re.compile(r"block(\d+)(.)_(\w+)"),  # Blocks in a stage are a to z, then { and so on.
        {
            "expand_conv": "expand_conv",
            "expand_bn": "expand_bn",
            "dwconv": "depthwise_conv",  # V1
            "dwconv2": "depthwise_conv",  # V2
            "bn": "depthwise_bn",
            "se_reduce": "se/reduce_conv",
            "se_expand": "se/expand_conv",
            "project_conv": "project_conv",
            "project_bn": "project_bn",
        },
        {
            "stem_conv": "stem_conv",
            "stem_bn": "stem_bn",
            "top_conv": "head_conv",
            "top_bn": "head_bn",
        },
        head=("top_conv/", "top_bn/"),
    ),
    Layout(
        "keras_efficientnet_v2",
        re.compile(r"stack_(\d+)_block(\d+)_(\w+)"),
        {
            "sortcut_conv": "expand_conv",
            "sortcut_bn": "expand_bn",
            "MB_dw_": "depthwise_conv",
            "MB_dw_bn": "depthwise_bn",
            "se_1_conv": "se/reduce_conv",
            "se_2_conv": "se/expand_conv",
            "MB_pw_conv": "project_conv",
            "MB_pw_bn": "project_bn",
            "fu_conv": "project_conv",
            "fu_bn": "project_bn",
        },
        {
            "stem_conv": "stem_conv",
            "stem_bn": "stem_bn",
            "post_conv": "head_conv",
            "post_bn": "head_bn",
        },
        head=("post_conv/", "post_bn/"),
    ),
)


def find_layout(names: Iterable[str]) -> Layout | None:
    """Returns the layout that matches the block names of a file, or None if none does."""
    for layout in LAYOUTS:
        if any(layout.block.match(name) for name in names):
            return layout
    return None


def names_of_paths(names: Iterable[str], layout: Layout) -> dict[str, str]:
    """Returns {our path: name} for the names of a file, such as `block2a_expand_conv/kernel`.

    Blocks are counted in the file's order, stage by stage, so that the depths of the stages need
    not be known. Names that the layout does not contain are left out.
    """
    matches = {name: layout.block.fullmatch(name.split("/")[0]) for name in names}
    order = sorted({_position(match) for match in matches.values() if match})
    paths = {}
    for name, match in matches.items():
        layer, kind = name.split("/")
        ours = layout.steps.get(match[3]) if match else layout.parts.get(layer)
        if ours is not None:
            block = f"blocks_{order.index(_position(match))}/" if match else ""
            paths[f"{block}{ours}/{kind.removeprefix('depthwise_')}"] = name
    return paths


def _position(match: re.Match) -> tuple:
    """Returns a key that sorts numbers by value (9 before 10) and letters alphabetically."""
    return int(match[1]), len(match[2]), match[2]


def layers_by_class(names: Iterable[str]) -> dict[str, list[str]]:
    """Returns {class: paths of its layers, in order} for names such as `layers/conv2d_3/vars/0`.

    Layers of a nested model stay together, whatever else the file contains.
    """
    found = {}
    for name in names:
        match = re.fullmatch(r"((?:.*/)?)([^/]*?)(?:_(\d+))?/vars/\d+", name)
        if match:
            parent, kind, number = match.groups()
            layer = name.rsplit("/", 2)[0]
            found.setdefault(kind, {})[layer] = (parent, int(number or 0))
    return {kind: sorted(layers, key=layers.get) for kind, layers in found.items()}


def names_in_order(model: keras.Model, layers: dict[str, list[str]]) -> dict[str, str]:
    """Returns {our path: name in the file} for every weight of a model that `build_model` built.

    Paths are left out where the file has fewer layers of a class than the model.
    """
    numbers, names = {}, {}
    for layer in _layers_in_use(model):
        kind = _class_in_files(layer)
        number = numbers[kind] = numbers.get(kind, -1) + 1
        if number < len(layers.get(kind, ())):
            for weight in layer.weights:
                path = var_path(weight)
                position = _NUMBERS[path.split("/")[-1]]
                names[path] = f"{layers[kind][number]}/vars/{position}"
    return names


def _layers_in_use(model: keras.Model):
    """Yields the innermost layers with weights, in order of use."""
    for layer in model.layers:
        steps = layer.steps if isinstance(layer, (MBConv, FusedMBConv)) else [layer]
        for step in steps:
            parts = [step.reduce_conv, step.expand_conv] if step.name == "se" else [step]
            yield from (part for part in parts if part.weights)


def _class_in_files(layer) -> str:
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return "depthwise_conv2d"
    if isinstance(layer, keras.layers.Conv2D):
        return "conv2d"
    return "dense" if isinstance(layer, keras.layers.Dense) else "batch_normalization"
