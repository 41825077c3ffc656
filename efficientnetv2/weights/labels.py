"""Class names for weights that do not carry their own."""

import importlib.resources

from hparams import UserError

IMAGENET = "imagenet"
"""The 1000 names of ImageNet-1k, one per line in the order of the classes (of their WordNet ids).

Source: torchvision (BSD 3-Clause licence), which tells apart the classes that share a word.
"""


def read_labels(source: str) -> tuple[str, ...]:
    """Returns the names of "imagenet", or of a file with one per line, in order.

    Raises: UserError if the file cannot be read, or has a line without a name.
    """
    if source == IMAGENET:
        package = importlib.resources.files("efficientnetv2.weights")
        text = package.joinpath("imagenet_labels.txt").read_text(encoding="utf-8")
    else:
        try:
            with open(source, encoding="utf-8-sig") as file:  # With or without a byte order mark.
                text = file.read()
        except OSError as error:
            raise UserError(f"cannot read class names from {source}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{source} is no text in UTF-8; give a class name per line") from error
    names = tuple(line.strip() for line in text.removesuffix("\n").split("\n"))
    if "" in names:
        raise UserError(f"{source} has no class name in line {names.index('') + 1}")
    return names
