"""On-disk cache of published weights: download, verification and unpacking.

Downloads show a progress bar and resume after an interruption, never mixing two versions of a
file. Archives may also be placed in the cache by hand. They are not trusted: an archive is unpacked
completely and inside its folder, or not at all.
"""

import contextlib
import dataclasses
import fcntl
import gzip
import http.client
import json
import os
import re
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from time import sleep

from absl import logging

from efficientnetv2.common.console import progress_bar, show
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import sha256_of
from efficientnetv2.common.text import one_line
from efficientnetv2.weights.pretrained import ROOT_URL, Pretrained

RETRY_WAITS = (1.0, 3.0, 10.0)  # seconds before the second, third and fourth attempt
TIMEOUT = 30.0  # seconds without a byte
BAR_DELAY = 1.0  # seconds after which a progress bar appears
_TRANSFER_CHUNK = 1 << 18  # bytes
_BAD_RANGE = 416  # The file is shorter than the requested offset.
_PASSING_STATUS = (408, _BAD_RANGE, 429, 500, 502, 503, 504)
_PASSING_ERRORS = (
    TimeoutError,
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
    http.client.IncompleteRead,
)
MAX_UNPACKED_BYTES = 8 * 2**30  # L2 takes 4 GB: 480 million weights and their averages.
_UNPACK_CHUNK = 1 << 20
CACHE_VARIABLE = "EFFICIENTNETV2_CACHE"
URL_VARIABLE = "EFFICIENTNETV2_WEIGHTS_URL"
DEFAULT_CACHE = os.path.join("~", ".cache", "efficientnetv2")


class TransferError(Exception):
    """A failed transfer; the message is the reason, `passing` is true if a retry may succeed."""

    def __init__(self, reason: str, passing: bool = False):
        super().__init__(reason)
        self.passing = passing


@dataclasses.dataclass(frozen=True)
class _Origin:
    """Origin of a partial file, stored next to it as JSON.

    `validator` is the server's identifier of this version of the file, None if it sends none.
    """

    url: str
    validator: str | None
    num_bytes: int | None


def transfer(url: str, path: str, *, num_bytes: int | None = None) -> None:
    """Downloads `url` to `path`, resuming from what a failed call left there.

    `path` is complete only once this function has returned. `num_bytes` is its length, if known in
    advance. If the server cannot resume, or its file has changed, the download starts again.

    Raises: TransferError if the file cannot be downloaded or does not have the known or announced
    length; OSError if `path` cannot be written.
    """
    for wait in (*RETRY_WAITS, None):
        try:
            return _attempt(url, path, num_bytes)
        except TransferError as error:
            if wait is None or not error.passing:
                raise
            logging.warning("%s: %s; trying again in %g s", url, error, wait)
            sleep(wait)


def forget(path: str) -> None:
    """Removes what a transfer to `path` left: the partial file and the note of its origin."""
    for name in (path, _origin_path(path)):
        with contextlib.suppress(FileNotFoundError):
            os.remove(name)


def _attempt(url: str, path: str, num_bytes: int | None) -> None:
    origin, offset = _left_over(url, path)
    if offset and offset == origin.num_bytes:
        return
    with _open(url, path, origin, offset) as response:
        if response.status == 206:
            _check_continues(response, path, origin, offset)
        else:
            origin, offset = _origin_of(response, url, num_bytes), 0
        _copy(response, path, origin, offset)
    received, expected = os.path.getsize(path), origin.num_bytes
    if expected is not None and received < expected:
        raise TransferError(f"cut off after {received} of {expected} bytes", passing=True)
    if expected is not None and received > expected:
        forget(path)
        raise TransferError(f"it sent more than the {expected} bytes that it should have")


def _left_over(url: str, path: str) -> tuple[_Origin | None, int]:
    """Returns origin and length in bytes of the partial file, or (None, 0) if it is not usable."""
    try:
        with open(_origin_path(path), encoding="utf-8") as file:
            origin = _Origin(**json.load(file))
        offset = os.path.getsize(path)
    except (FileNotFoundError, ValueError, TypeError):  # The latter two: truncated note.
        return None, 0
    return (origin, offset) if origin.url == url and origin.validator else (None, 0)


def _open(url: str, path: str, origin: _Origin | None, offset: int) -> http.client.HTTPResponse:
    headers = {"Range": f"bytes={offset}-", "If-Range": origin.validator} if offset else {}
    with _network_errors():
        try:
            request = urllib.request.Request(url, headers=headers)
            return urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == _BAD_RANGE:
                forget(path)
            reason = f"HTTP status {error.code} ({error.reason})"
            raise TransferError(reason, error.code in _PASSING_STATUS) from error


def _origin_of(response, url: str, num_bytes: int | None) -> _Origin:
    announced = num_bytes if response.length is None else response.length
    if num_bytes not in (None, announced):
        raise TransferError(f"it announces {announced} bytes, where {num_bytes} are known")
    etag = response.headers.get("ETag", "")
    if not etag or etag.startswith("W/"):  # A weak ETag does not guarantee equal bytes.
        etag = response.headers.get("Last-Modified")
    return _Origin(url, etag, announced)


def _check_continues(response, path: str, origin: _Origin, offset: int) -> None:
    """Checks a partial response, as servers may ignore `If-Range` or count bytes differently."""
    total = r"\*" if origin.num_bytes is None else rf"({origin.num_bytes}|\*)"
    content_range = response.headers.get("Content-Range", "")
    same_range = re.fullmatch(rf"bytes {offset}-\d+/{total}", content_range)
    same_tag = response.headers.get("ETag", origin.validator) == origin.validator
    if not (same_range and same_tag):
        forget(path)
        raise TransferError("the file changed while it was fetched", passing=True)


def _copy(response, path: str, origin: _Origin, offset: int) -> None:
    bar = progress_bar(
        desc=os.path.basename(origin.url),
        total=origin.num_bytes,
        initial=offset,
        unit="B",
        unit_scale=True,
        delay=BAR_DELAY,
    )
    with open(path, "ab" if offset else "wb") as file, bar:
        if not offset:
            with open(_origin_path(path), "w", encoding="utf-8") as note:
                json.dump(dataclasses.asdict(origin), note)
        while chunk := _read(response):
            file.write(chunk)
            bar.update(len(chunk))
            if origin.num_bytes is not None and file.tell() > origin.num_bytes:
                break
        file.flush()
        os.fsync(file.fileno())


def _read(response) -> bytes:
    with _network_errors():
        return response.read1(_TRANSFER_CHUNK)  # One read: an interruption loses little.


@contextlib.contextmanager
def _network_errors():
    """Converts network errors to TransferErrors, to distinguish them from disk errors."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", None)
        cause = cause if isinstance(cause, OSError) else error
        reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        raise TransferError(reason, isinstance(cause, _PASSING_ERRORS)) from error


def _origin_path(path: str) -> str:
    return f"{path}.json"


def unpack(archive: str, folder: str) -> None:
    """Unpacks a tar archive, gzip-compressed or uncompressed, to `folder`, which must not exist.

    Only regular files and folders are accepted. `folder` is created by a final rename, so it is
    never partially filled. Only one process at a time may unpack to the same folder.

    Raises: UserError, naming the archive, if it is damaged or truncated, if it contains a link, a
    device, or a name that leads out of the folder, or if it unpacks to more than
    `MAX_UNPACKED_BYTES`; OSError if the folder cannot be written.
    """
    part = f"{folder}.part"
    shutil.rmtree(part, ignore_errors=True)  # Left by a killed process.
    os.makedirs(part)
    try:
        with tarfile.open(archive, "r:gz" if _is_gzip(archive) else "r:") as tar:
            _extract_all(tar, archive, part)
            while tar.fileobj.read(_UNPACK_CHUNK):  # To the end, where gzip verifies its checksum.
                pass
        os.replace(part, folder)
    except tarfile.FilterError as error:
        raise _refused(archive, error.tarinfo.name, "is unsafe") from error
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        reason = one_line(error)
        raise UserError(
            f"{archive} is cut short, damaged or no tar archive ({reason}); delete it and try again"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def find_checkpoint(folder: str) -> str:
    """Returns the prefix of the only checkpoint under `folder`, such as FOLDER/b0/model.ckpt.

    Raises: UserError if there is none, or more than one.
    """
    found = [
        os.path.join(parent, name.removesuffix(".index"))
        for parent, _, names in os.walk(folder)
        for name in names
        if name.endswith(".index") and not name.startswith("._")  # "._*" is macOS metadata.
    ]
    if len(found) != 1:
        raise UserError(
            f"{folder} must hold one checkpoint, got {len(found)} *.index files; "
            "delete the folder and the archive beside it, and try again"
        )
    return found[0]


def _extract_all(tar: tarfile.TarFile, archive: str, folder: str) -> None:
    num_bytes = 0
    for member in tar:
        if not (member.isreg() or member.isdir()):
            raise _refused(archive, member.name, "is neither a file nor a folder")
        parts = re.split(r"[/\\]", member.name)
        if ".." in parts or parts[0] == "" or ":" in parts[0] or "\0" in member.name:
            raise _refused(archive, member.name, "has a name that may lead out of its folder")
        num_bytes += member.size
        if member.size < 0 or num_bytes > MAX_UNPACKED_BYTES:
            why = f"of {member.size} bytes breaks the limit of {MAX_UNPACKED_BYTES} in all"
            raise _refused(archive, member.name, why)
        tar.extract(member, folder, set_attrs=False, filter="data")
        if member.isreg():
            with open(os.path.join(folder, member.name), "rb") as file:
                os.fsync(file.fileno())  # A power failure must not leave a folder without content.


def _is_gzip(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _refused(archive: str, member: str, why: str) -> UserError:
    return UserError(f"{archive} is refused: its member {member!r} {why}; delete the archive")


def fetch(row: Pretrained, cache_dir: str | None = None) -> str:
    """Returns the prefix of a published checkpoint on disk, downloading it on first use.

    The cache is `cache_dir`, else `$EFFICIENTNETV2_CACHE`, else `~/.cache/efficientnetv2`. It
    contains the archive under its published name, its checksum (`.sha256`, recorded on first use)
    and the unpacked folder. Whenever the archive is read, it is verified against the checksum in
    the table, else the recorded one. An archive placed in the cache by hand is used.
    `$EFFICIENTNETV2_WEIGHTS_URL` replaces the URL of the publisher's folder with that of a mirror.

    Raises: UserError, one line, if the archive cannot be downloaded, stating where to put it; if it
    is damaged, unsafe, or does not match the checksum; or if the cache cannot be written.
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
        elif row.sha256 and _recorded_sum(archive):  # The table may list the sum by now.
            _check_sum(row, _recorded_sum(archive), archive, f"{archive} and {folder}")
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"cannot use {cache} as the cache of weights: {reason}; "
            f"make room, or name another folder in ${CACHE_VARIABLE}"
        ) from error
    return find_checkpoint(folder)


def _install(row: Pretrained, archive: str, folder: str) -> None:
    """Downloads, if necessary, verifies and unpacks an archive.

    Archive, checksum and folder each get their final name only when they are complete.
    """
    part = f"{archive}.part"
    source = archive
    if not os.path.exists(archive):
        _download(row, archive, part)
        source = part
    digest = sha256_of(source)
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
    show(f"Downloading {url} to {os.path.dirname(archive)}", stderr=True)
    try:
        transfer(url, part, num_bytes=row.num_bytes)
    except TransferError as error:
        raise UserError(
            f"cannot download {url}: {error}; try again, "
            f"or download it elsewhere and put it at {archive}"
        ) from error


def _check_sum(row: Pretrained, digest: str, archive: str, to_delete: str) -> None:
    """Verifies a checksum against the published one, else the recorded one, if there is any."""
    expected = row.sha256 or _recorded_sum(archive)
    if expected in (None, digest):
        return
    record = _record_path(archive)
    renew = "" if row.sha256 else f", and {record} too if the published file has changed"
    where = "published" if row.sha256 else f"recorded in {record}"
    raise UserError(
        f"{to_delete}: sha256 is {digest}, but {expected} is {where}; delete {to_delete}{renew}"
    )


def _recorded_sum(archive: str) -> str | None:
    if not os.path.exists(_record_path(archive)):
        return None
    with open(_record_path(archive), encoding="utf-8", errors="replace") as file:
        return file.read().partition(" ")[0].strip()


def _record_sum(archive: str, digest: str) -> None:
    """Writes the checksum in the format of `sha256sum --check`."""
    record = _record_path(archive)
    with open(f"{record}.part", "w", encoding="utf-8") as file:
        file.write(f"{digest}  {os.path.basename(archive)}\n")
    os.replace(f"{record}.part", record)


def _record_path(archive: str) -> str:
    return f"{archive}.sha256"


@contextlib.contextmanager
def _only_process(archive: str):
    """Waits for and holds the lock on fetching an archive; a dying process releases it."""
    with open(f"{archive}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            show(f"Waiting for a process that fetches {archive}", stderr=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
