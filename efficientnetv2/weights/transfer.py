"""One file over HTTP: with a progress bar, resumed where it was cut, never glued from two."""

import contextlib
import dataclasses
import http.client
import json
import os
import re
import urllib.error
import urllib.request
from time import sleep

from absl import logging
from tqdm.auto import tqdm

RETRY_WAITS = (1.0, 3.0, 10.0)  # seconds before the second, third and fourth attempt
TIMEOUT = 30.0  # seconds without a byte
BAR_DELAY = 1.0  # seconds after which a progress bar appears
_CHUNK = 1 << 18  # bytes
_BAD_RANGE = 416  # The file ends before the byte that was asked for.
_PASSING_STATUS = (408, _BAD_RANGE, 429, 500, 502, 503, 504)
_PASSING_ERRORS = (
    TimeoutError,
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
    http.client.IncompleteRead,
)


class TransferError(Exception):
    """A transfer that failed; the message is the reason, `passing` if it may go better later."""

    def __init__(self, reason: str, passing: bool = False):
        super().__init__(reason)
        self.passing = passing


@dataclasses.dataclass(frozen=True)
class _Origin:
    """What a partial file is a part of; kept beside it, as JSON.

    `validator` is the server's word for this version of the file, None where it has none.
    """

    url: str
    validator: str | None
    num_bytes: int | None


def transfer(url: str, path: str, *, num_bytes: int | None = None) -> None:
    """Downloads `url` to `path`, going on with what a call that failed left there.

    `path` is whole only once this has returned. `num_bytes` is its length, where it is known
    beforehand. Where the server cannot resume, or its file has changed, the download starts again.

    Raises: TransferError if the file cannot be had, or not in the length that is known or
    announced; OSError if `path` cannot be written.
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
    """Removes what a transfer to `path` left: the part, and the note of what it is a part of."""
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
    """Returns what lies at `path` and how many bytes of it, or (None, 0) if it is of no use."""
    try:
        with open(_origin_path(path), encoding="utf-8") as file:
            origin = _Origin(**json.load(file))
        offset = os.path.getsize(path)
    except (FileNotFoundError, ValueError, TypeError):  # The latter two: the note is half written.
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
    if not etag or etag.startswith("W/"):  # A weak tag does not promise equal bytes.
        etag = response.headers.get("Last-Modified")
    return _Origin(url, etag, announced)


def _check_continues(response, path: str, origin: _Origin, offset: int) -> None:
    """For servers that ignore `If-Range`, or count differently."""
    total = r"\*" if origin.num_bytes is None else rf"({origin.num_bytes}|\*)"
    content_range = response.headers.get("Content-Range", "")
    same_range = re.fullmatch(rf"bytes {offset}-\d+/{total}", content_range)
    same_tag = response.headers.get("ETag", origin.validator) == origin.validator
    if not (same_range and same_tag):
        forget(path)
        raise TransferError("the file changed while it was fetched", passing=True)


def _copy(response, path: str, origin: _Origin, offset: int) -> None:
    bar = tqdm(
        desc=os.path.basename(origin.url),
        total=origin.num_bytes,
        initial=offset,
        unit="B",
        unit_scale=True,
        delay=BAR_DELAY,
        disable=None,  # Where stderr is no terminal.
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
        return response.read1(_CHUNK)  # What has come, so that a cut loses little.


@contextlib.contextmanager
def _network_errors():
    """Turns what the network raises into TransferErrors, apart from what the disk raises."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", None)
        cause = cause if isinstance(cause, OSError) else error
        reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        raise TransferError(reason, isinstance(cause, _PASSING_ERRORS)) from error


def _origin_path(path: str) -> str:
    return f"{path}.json"
