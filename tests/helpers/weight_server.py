"""An archive of weights, and a server on loopback that serves it well or in a chosen bad way."""

import dataclasses
import hashlib
import io
import random
import re
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def make_archive(seed: int = 0, *, members=None, mode: str = "w:gz", num_bytes: int = 20_000):
    """Bytes of an archive: of a checkpoint of random bytes, or of `members`."""
    if members is None:
        data = random.Random(seed).randbytes(num_bytes)
        members = [
            folder("b0-21k"),
            plain("b0-21k/checkpoint", b'model_checkpoint_path: "model"'),
            plain("b0-21k/model.index", b"index %d" % seed),
            plain("b0-21k/._model.index", b"of macOS"),
            plain("b0-21k/model.data-00000-of-00001", data),
        ]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def folder(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return special(name, tarfile.DIRTYPE)


def plain(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


@dataclasses.dataclass(frozen=True)
class Answer:
    """How one request is answered; by default as a good server does."""

    status: int | None = None  # Of an error.
    sends: int | None = None  # Bytes after which the connection is cut.
    announces: int = 0  # Bytes more than there are.
    announces_length: bool = True
    resumes: bool = True  # Whether `Range` is heeded,
    checks: bool = True  # and `If-Range`.
    starts_late: int = 0  # Bytes by which a resumed answer begins too late.
    waits: float = 0.0  # Seconds before each piece of 4096 bytes,
    then_hangs: float = 0.0  # and after the last.


class WeightServer(ThreadingHTTPServer):
    """Serves `content` under any path; `answers` are used up first, one per request."""

    def __init__(self, content: bytes, *answers: Answer):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.answers = content, list(answers)
        self.tag: str | None = None  # The `ETag` instead of the true one; "" for none.
        self.ranges: list[str | None] = []  # The `Range` of each request so far.
        self.paths: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that hangs up is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802
        server, content = self.server, self.server.content
        answer = server.answers.pop(0) if server.answers else Answer()
        server.ranges.append(self.headers["Range"])
        server.paths.append(self.path)
        if answer.status:
            self.send_error(answer.status)
            return
        tag = f'"{hashlib.md5(content).hexdigest()}"' if server.tag is None else server.tag
        start = self._start(tag, answer)
        if start > len(content) or (start and start == len(content)):
            self.send_error(416)
            return
        first = min(start + answer.starts_late, len(content)) if start else 0
        body = content[first:]
        self.send_response(206 if start else 200)
        if start:
            total = f"{first}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", f"bytes {total}")
        if tag:
            self.send_header("ETag", tag)
        if answer.announces_length:
            self.send_header("Content-Length", str(len(body) + answer.announces))
        self.end_headers()
        for at in range(0, len(body), 4096):
            time.sleep(answer.waits)
            self.wfile.write(body[: answer.sends][at : at + 4096])
        time.sleep(answer.then_hangs)

    def _start(self, tag: str, answer: Answer) -> int:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        same = self.headers["If-Range"] == tag or not answer.checks
        return int(wanted[1]) if wanted and answer.resumes and same else 0

    def log_message(self, *_):
        """Nothing on stderr."""
