"""The names of the classes of a source."""

from collections.abc import Sequence

import tensorflow as tf

from hparams import UserError, imagenet_class_names, names_in

IMAGENET = "imagenet"  # As a label file: the built-in names of ImageNet-1k.


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
        reason = " ".join(str(error.message).split())
        raise UserError(f"cannot read {name}: {reason}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is no text in UTF-8; save it as UTF-8") from error
