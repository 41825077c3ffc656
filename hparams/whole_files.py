"""Small local files that are there whole or not at all."""

import os

from hparams.errors import UserError, reason_of


def write_whole(path: str, content: str | bytes) -> None:
    """Writes text as UTF-8, or bytes, to `path` + ".part", and renames that to `path`.

    Raises: UserError naming `path` if it cannot be written; what was there before still is.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        with open(f"{path}.part", "wb") as file:
            file.write(data)
        os.replace(f"{path}.part", path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason_of(error)}") from error
