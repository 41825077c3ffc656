"""Class names for weights that do not carry their own."""

from hparams import UserError, imagenet_class_names, names_in

IMAGENET = "imagenet"  # The 1000 names of ImageNet-1k.


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
