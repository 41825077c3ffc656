"""Files that are there whole or not at all, on any file system that `tf.io.gfile` knows."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from hparams import UserError, reason_of


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Gives `path` + ".part" to write to; renames it to `path` if the block ends without an error.

    After an error the part is removed, which matters on a full disk. A killed process may leave one
    behind; the next one writes over it.

    Raises: UserError naming `path` if TensorFlow's file system or the disk refuses.
    """
    part = f"{path}.part"
    try:
        yield part
        tf.io.gfile.rename(part, path, overwrite=True)
    except (OSError, tf.errors.OpError) as error:
        _remove(part)
        raise UserError(f"cannot write {path}: {reason_of(error)}") from error
    except BaseException:
        _remove(part)
        raise


def write_text(path: str, text: str) -> None:
    """Writes a small text file.

    Raises: UserError naming `path` if it cannot be written.
    """
    with replacing(path) as part, tf.io.gfile.GFile(part, "w") as file:
        file.write(text)


def make_folder(path: str) -> None:
    """Makes a folder and those above it, where they are missing.

    Raises: UserError naming `path` if it cannot be made.
    """
    try:
        tf.io.gfile.makedirs(path)
    except tf.errors.OpError as error:
        raise UserError(f"cannot make the folder {path}: {reason_of(error)}") from error


def _remove(part: str) -> None:
    with contextlib.suppress(tf.errors.OpError):  # The first error is the one to tell.
        tf.io.gfile.remove(part)
