"""Published weights in a cache on disk: fetched once, checked, unpacked, or put there by hand."""

import contextlib
import fcntl
import hashlib
import os
import sys

from efficientnetv2.weights.pretrained import ROOT_URL, Pretrained
from efficientnetv2.weights.transfer import TransferError, forget, transfer
from efficientnetv2.weights.unpack import find_checkpoint, unpack
from hparams import UserError

CACHE_VARIABLE = "EFFICIENTNETV2_CACHE"
URL_VARIABLE = "EFFICIENTNETV2_WEIGHTS_URL"
DEFAULT_CACHE = os.path.join("~", ".cache", "efficientnetv2")


def fetch(row: Pretrained, cache_dir: str | None = None) -> str:
    """Returns the prefix of a published checkpoint on disk, fetching it at the first use.

    The cache is `cache_dir`, else `$EFFICIENTNETV2_CACHE`, else `~/.cache/efficientnetv2`. It
    holds the archive under its published name, its checksum (`.sha256`, recorded at the first use
    unless the table knows it, and compared whenever the archive is read again) and the unpacked
    folder. An archive that was put there by hand is used. `$EFFICIENTNETV2_WEIGHTS_URL` replaces
    the address of the publisher's folder with that of a mirror.

    Raises: UserError, one line, if the archive cannot be had, saying where to put it; if it is
    damaged, unsafe, or not the one of the checksum; or if the cache cannot be written.
    """
    cache = os.path.expanduser(cache_dir or os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE)
    archive = os.path.join(cache, os.path.basename(row.url))
    folder = os.path.join(cache, f"{row.model_name}-{row.tag}")
    try:
        if not os.path.isdir(folder):
            os.makedirs(cache, exist_ok=True)
            with _only_process(archive):
                if not os.path.isdir(folder):  # Another process may have been faster.
                    _install(row, archive, folder)
        elif row.sha256 and _recorded_sum(archive):  # The table may have learnt the sum since.
            _check_sum(row, _recorded_sum(archive), archive, f"{archive} and {folder}")
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"cannot use {cache} as the cache of weights: {reason}; "
            f"make room, or name another folder in ${CACHE_VARIABLE}"
        ) from error
    return find_checkpoint(folder)


def _install(row: Pretrained, archive: str, folder: str) -> None:
    """Each of the three names (archive, sum, folder) appears only when what it names is whole."""
    part = f"{archive}.part"
    source = archive
    if not os.path.exists(archive):
        _download(row, archive, part)
        source = part
    digest = _sha256(source)
    _check_sum(row, digest, archive, source)
    unpack(source, folder)
    os.replace(source, archive)
    _record_sum(archive, digest)
    forget(part)


def _download(row: Pretrained, archive: str, part: str) -> None:
    url = row.url
    if os.environ.get(URL_VARIABLE):
        url = os.environ[URL_VARIABLE].rstrip("/") + url.removeprefix(ROOT_URL)
    if not url.startswith(("http://", "https://")):
        raise UserError(
            f"${URL_VARIABLE} must start with http:// or https://, got {url}; "
            f"to use a file, put it at {archive}"
        )
    print(f"Downloading {url} to {os.path.dirname(archive)}", file=sys.stderr, flush=True)
    try:
        transfer(url, part, num_bytes=row.num_bytes)
    except TransferError as error:
        raise UserError(
            f"cannot download {url}: {error}; try again, "
            f"or download it elsewhere and put it at {archive}"
        ) from error


def _check_sum(row: Pretrained, digest: str, archive: str, to_delete: str) -> None:
    """Compares with the published sum, else with the recorded one, else with nothing."""
    expected = row.sha256 or _recorded_sum(archive)
    if expected in (None, digest):
        return
    record = _record_path(archive)
    renew = "" if row.sha256 else f", and {record} too if the published file has changed"
    where = "published" if row.sha256 else f"recorded in {record}"
    raise UserError(
        f"{to_delete}: sha256 is {digest}, but {expected} is {where}; delete {to_delete}{renew}"
    )


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _recorded_sum(archive: str) -> str | None:
    if not os.path.exists(_record_path(archive)):
        return None
    with open(_record_path(archive), encoding="utf-8", errors="replace") as file:
        return file.read().partition(" ")[0].strip()


def _record_sum(archive: str, digest: str) -> None:
    """Writes the sum in the form that `sha256sum --check` reads."""
    record = _record_path(archive)
    with open(f"{record}.part", "w", encoding="utf-8") as file:
        file.write(f"{digest}  {os.path.basename(archive)}\n")
    os.replace(f"{record}.part", record)


def _record_path(archive: str) -> str:
    return f"{archive}.sha256"


@contextlib.contextmanager
def _only_process(archive: str):
    """Waits until no other process fetches this archive; the lock ends with its process."""
    with open(f"{archive}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Waiting for a process that fetches {archive}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
