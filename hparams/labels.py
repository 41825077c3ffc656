"""The names of ImageNet's classes."""

import importlib.resources


def imagenet_class_names() -> tuple[str, ...]:
    """The 1000 names of ImageNet-1k in the order of the classes (of their WordNet ids).

    Source: torchvision (BSD 3-Clause licence), which tells apart the classes that share a word.
    """
    package = importlib.resources.files("hparams")
    return tuple(package.joinpath("imagenet_labels.txt").read_text(encoding="utf-8").splitlines())
