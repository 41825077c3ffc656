"""Folder of an export: one subfolder per version, each written atomically."""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator

from efficientnetv2.common.errors import UserError
from efficientnetv2.training.checkpoint import writing

_PART = re.compile(r"\d+(\.\w+)?\.part")


def versions_in(path: str) -> list[int]:
    """Returns the versions in `path`, the newest last."""
    return sorted(int(name) for name in os.listdir(path) if name.isdecimal())


def find_version(path: str) -> str:
    """Returns the folder of a SavedModel: `path`, or the newest version in it.

    Raises: UserError if there is no SavedModel.
    """
    found = path
    if os.path.isdir(path) and not os.path.exists(os.path.join(path, "saved_model.pb")):
        found = os.path.join(path, str(max(versions_in(path), default="")))
    if not os.path.exists(os.path.join(found, "saved_model.pb")):
        raise UserError(f"no SavedModel in {path}; export first with --mode=export")
    return found


@contextlib.contextmanager
def new_version(path: str, version: int | None = None) -> Iterator[tuple[str, str]]:
    """Yields a temporary folder and the name that it gets if the block ends without an error.

    The name is `path/VERSION`, by default the next free version. After an error the folder is
    removed. Folders of killed processes, which no longer hold their locks, are removed as well.

    Raises: UserError if `path` cannot be written to, or if the version exists when the block is
    entered or left.
    """
    where = f"the export to {path}"
    with contextlib.ExitStack() as held:
        with writing(where):
            os.makedirs(path, exist_ok=True)
            with _locked(path):
                _remove_left_behind(path)
                if version is None:
                    version = max(versions_in(path), default=0) + 1
                final = os.path.join(path, str(version))
                _check_free(final)
                part = f"{final}.{secrets.token_hex(4)}.part"
                os.mkdir(part)
                held.enter_context(_locked(part))
        try:
            yield part, final
            with writing(where), _locked(path):
                _check_free(final)  # rename() would replace an empty folder.
                os.rename(part, final)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


@contextlib.contextmanager
def _locked(folder: str, wait: bool = True) -> Iterator[None]:
    """Holds the lock of a folder, which is also released when the process ends.

    Raises: BlockingIOError if another process holds the lock and `wait` is False.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def _remove_left_behind(path: str) -> None:
    for name in filter(_PART.fullmatch, os.listdir(path)):
        part = os.path.join(path, name)
        with contextlib.suppress(BlockingIOError), _locked(part, wait=False):
            shutil.rmtree(part)


def _check_free(final: str) -> None:
    if os.path.lexists(final):
        raise _exists(final)


def _exists(final: str) -> UserError:
    return UserError(
        f"{final} exists, and a version is never written over; give another --export_version, or "
        "none for the next free one"
    )
