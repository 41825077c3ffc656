"""Atomic writes, folders and checksums of files, local or through `tf.io.gfile`."""

import contextlib
import hashlib
import os
from collections.abc import Iterator

from efficientnetv2.common.errors import UserError, reason_of


def as_path(value: str | os.PathLike, name: str) -> str:
    """Returns a path as a string. Raises: UserError, naming the argument, if it is not a path.

    "gs://…" and other URLs that `tf.io.gfile` supports are paths too.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value:
        raise UserError(f"{name} must be the path of a file or directory, got {value!r}")
    return value


def atomic_write(path: str, content: str | bytes) -> None:
    """Writes text as UTF-8, or bytes, to `path` + ".part", and renames that to `path`.

    Raises: UserError naming `path` if it cannot be written; an existing file is then kept.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        with open(f"{path}.part", "wb") as file:
            file.write(data)
        os.replace(f"{path}.part", path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason_of(error)}") from error


@contextlib.contextmanager
def atomic_path(path: str) -> Iterator[str]:
    """Yields `path` + ".part" to write to, and renames it to `path` if the block succeeds.

    After an error the partial file is removed, which matters on a full disk. A killed process may
    leave one behind; the next write overwrites it.

    Raises: UserError naming `path` if it cannot be written.
    """
    import tensorflow as tf

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
    import tensorflow as tf

    with atomic_path(path) as part, tf.io.gfile.GFile(part, "w") as file:
        file.write(text)


def make_folder(path: str) -> None:
    """Creates a folder and its parents, if they are missing.

    Raises: UserError naming `path` if it cannot be created.
    """
    import tensorflow as tf

    try:
        tf.io.gfile.makedirs(path)
    except tf.errors.OpError as error:
        raise UserError(f"cannot make the folder {path}: {reason_of(error)}") from error


def make_local_folder(path: str, refusal: str) -> None:
    """Creates a folder and its parents, if they are missing, without TensorFlow.

    Raises: UserError with `refusal` and the reason if it cannot be created.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UserError(f"{refusal}: {error.strerror}") from error


def sha256_of(path: str) -> str:
    """Returns the SHA-256 of a local file in hex. Raises: OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(part: str) -> None:
    import tensorflow as tf

    with contextlib.suppress(tf.errors.OpError):  # The first error is the one to report.
        tf.io.gfile.remove(part)
