"""Class names: of a data set, of a labels file, and of ImageNet-1k."""

import importlib.resources
from collections.abc import Sequence

import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.text import one_line

IMAGENET = "imagenet"  # As a label file: the built-in names of ImageNet-1k.


def imagenet_class_names() -> tuple[str, ...]:
    """The 1000 names of ImageNet-1k in the order of the classes (of their WordNet ids).

    Source: torchvision (BSD 3-Clause licence), which tells apart the classes that share a word.
    """
    file = importlib.resources.files("efficientnetv2.datasets") / "imagenet_labels.txt"
    return tuple(file.read_text(encoding="utf-8").splitlines())


def names_in(text: str, source: str) -> tuple[str, ...]:
    """The class names of a text, one per line.

    Raises: UserError, naming `source`, if a line has none.
    """
    names = tuple(line.strip() for line in text.removesuffix("\n").split("\n"))
    if "" in names:
        raise UserError(f"{source} has no class name in line {names.index('') + 1}")
    return names


def class_names_of(data_config, known: Sequence[str] | None = None) -> tuple[str, ...]:
    """The names of a source's classes, in the order of its labels.

    Those of `data_config.label_file` if it is set, else those that the source has, `known`, else
    the numbers 0, 1, ... as text.

    Raises: UserError if nothing says how many classes there are, or two things differ.
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
    """Class names, one per line; "imagenet": those of ImageNet-1k.

    Raises: UserError if the file cannot be read, or has a line without a name.
    """
    if path == IMAGENET:
        return imagenet_class_names()
    return names_in(read_text(path, f"data.label_file={path}"), path)


def read_text(path: str, name: str) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises: UserError, calling the file `name`, if it cannot be read or is no such text.
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
    """Returns the names of "imagenet", or of a file with one per line, in order.

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
