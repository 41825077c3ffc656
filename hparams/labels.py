"""The names of ImageNet's classes."""

import importlib.resources

from hparams.errors import UserError


def imagenet_class_names() -> tuple[str, ...]:
    """The 1000 names of ImageNet-1k in the order of the classes (of their WordNet ids).

    Source: torchvision (BSD 3-Clause licence), which tells apart the classes that share a word.
    """
    package = importlib.resources.files("hparams")
    return tuple(package.joinpath("imagenet_labels.txt").read_text(encoding="utf-8").splitlines())


def names_in(text: str, source: str) -> tuple[str, ...]:
    """The class names of a text, one per line.

    Raises: UserError, naming `source`, if a line has none.
    """
    names = tuple(line.strip() for line in text.removesuffix("\n").split("\n"))
    if "" in names:
        raise UserError(f"{source} has no class name in line {names.index('') + 1}")
    return names
