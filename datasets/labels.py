"""Class names: of a data set, of a labels file, and of ImageNet-1k."""

import importlib.resources
from collections.abc import Sequence

import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.text import one_line

IMAGENET = "imagenet"  # As a label file, selects the built-in names of ImageNet-1k.


def imagenet_class_names() -> tuple[str, ...]:
    """Returns the 1000 class names of ImageNet-1k in class order (sorted by WordNet ID).

    Source: torchvision (BSD 3-Clause license), which disambiguates classes that share a word.
    """
    file = importlib.resources.files("efficientnetv2.datasets") / "imagenet_labels.txt"
    return tuple(file.read_text(encoding="utf-8").splitlines())


def names_in(text: str, source: str) -> tuple[str, ...]:
    """Returns the class names in a text, one per line.

    Raises: UserError, naming `source`, if a line has no name.
    """
    names = tuple(line.strip() for line in text.removesuffix("\n").split("\n"))
    if "" in names:
        raise UserError(f"{source} has no class name in line {names.index('') + 1}")
    return names


def class_names_of(data_config, known: Sequence[str] | None = None) -> tuple[str, ...]:
    """Returns the class names of a source, in the order of its labels.

    They are read from `data_config.label_file` if it is set; otherwise they are `known`, the names
    that the source has, or else the numbers 0, 1, ... as text.

    Raises: UserError if the number of classes is unknown, or if two values of it differ.
    """
    count = data_config.num_classes if known is None else len(known)
    if data_config.label_file is not None:
        names = read_label_file(data_config.label_file)
        if count not in (None, len(names)):
            raise UserError(
                f"data.label_file={data_config.label_file} names {len(names)} classes, but there "
                f"are {count}; give one name per line for each"
            )
        return names
    if known is not None:
        return tuple(known)
    if count is None:
        raise UserError(
            "the records do not say how many classes there are; set data.num_classes or "
            "data.label_file"
        )
    return tuple(map(str, range(count)))


def read_label_file(path: str) -> tuple[str, ...]:
    """Reads class names, one per line; "imagenet" selects those of ImageNet-1k.

    Raises: UserError if the file cannot be read, or has a line without a name.
    """
    if path == IMAGENET:
        return imagenet_class_names()
    return names_in(read_text(path, f"data.label_file={path}"), path)


def read_text(path: str, name: str) -> str:
    """Reads a UTF-8 text file, with or without a byte order mark.

    Raises: UserError, which calls the file `name`, if it cannot be read or is not valid UTF-8.
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read().decode("utf-8-sig")
    except tf.errors.OpError as error:
        reason = one_line(error)
        raise UserError(f"cannot read {name}: {reason}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is no text in UTF-8; save it as UTF-8") from error


def read_labels(source: str) -> tuple[str, ...]:
    """Returns the class names of "imagenet", or of a file with one name per line, in order.

    Raises: UserError if the file cannot be read, or has a line without a name.
    """
    if source == IMAGENET:
        return imagenet_class_names()
    try:
        with open(source, encoding="utf-8-sig") as file:  # With or without a byte order mark.
            text = file.read()
    except OSError as error:
        raise UserError(f"cannot read class names from {source}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{source} is no text in UTF-8; give a class name per line") from error
    return names_in(text, source)
