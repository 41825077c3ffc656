"""One file from a server on loopback that behaves, or does not."""

import io
import os
import socket
import sys
import time

import pytest
from weight_server import Answer, WeightServer, make_archive

from efficientnetv2.weights import download as transfer_module
from efficientnetv2.weights.download import TransferError, forget, transfer

CONTENT = make_archive()
CHANGED = CONTENT[::-1]  # As long.
CUT = Answer(sends=9000)


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Seconds that `transfer` would have waited before its second and third attempt."""
    waited = []
    monkeypatch.setattr(transfer_module, "sleep", waited.append)
    monkeypatch.setattr(transfer_module, "RETRY_WAITS", (1.0, 3.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return waited


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "weights.part")


def check_transfers(server, path, content=CONTENT, **known):
    transfer(f"{server.url}/weights", path, **known)
    with open(path, "rb") as file:
        assert file.read() == content


def check_fails(server, path, message, **known):
    with pytest.raises(TransferError, match=message):
        transfer(f"{server.url}/weights", path, **known)


@pytest.mark.parametrize(
    "answers, ranges",
    [
        ([], [None]),
        ([CUT], [None, "bytes=9000-"]),
        ([CUT, CUT], [None, "bytes=9000-", "bytes=18000-"]),
        ([Answer(status=500)], [None, None]),
        ([CUT, Answer(status=503)], [None, "bytes=9000-", "bytes=9000-"]),
        ([CUT, Answer(resumes=False)], [None, "bytes=9000-"]),
        ([CUT, Answer(starts_late=7)], [None, "bytes=9000-", None]),
        ([CUT, Answer(status=416)], [None, "bytes=9000-", None]),
        ([Answer(announces=99)], [None, f"bytes={len(CONTENT)}-", None]),
        ([CUT, Answer(announces=99)], [None, "bytes=9000-"]),
        ([Answer(announces_length=False)], [None]),
    ],
)
def test_a_fault_that_passes_is_overcome(path, waits, answers, ranges):
    with WeightServer(CONTENT, *answers) as server:
        check_transfers(server, path)
    assert server.ranges == ranges
    assert waits == [1.0, 3.0][: len(ranges) - 1]


def test_a_later_call_resumes_and_one_after_that_asks_for_nothing(path):
    with WeightServer(CONTENT, *[Answer(sends=5000)] * 3) as server:
        check_fails(server, path, f"^cut off after 15000 of {len(CONTENT)} bytes$")
        check_transfers(server, path)
        check_transfers(server, path)
    assert server.ranges[3:] == ["bytes=15000-"]


def test_what_a_killed_process_received_is_kept(path, monkeypatch):
    read = transfer_module._read

    def interrupted(response):
        if os.path.getsize(path) > 9000:
            raise KeyboardInterrupt
        return read(response)

    monkeypatch.setattr(transfer_module, "_TRANSFER_CHUNK", 1000)
    with WeightServer(CONTENT) as server:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(transfer_module, "_read", interrupted)
            transfer(f"{server.url}/weights", path)
        received = os.path.getsize(path)
        assert 9000 < received < len(CONTENT)
        check_transfers(server, path)
    assert server.ranges == [None, f"bytes={received}-"]


def test_all_bytes_are_on_disk_when_it_returns(path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    with WeightServer(CONTENT) as server:
        check_transfers(server, path)
    assert synced == [len(CONTENT)]


@pytest.mark.parametrize("checks", [True, False])
def test_a_file_that_changed_is_not_glued_to_an_old_half(path, checks):
    with WeightServer(CONTENT, *[Answer(sends=3000)] * 3) as server:
        check_fails(server, path, "cut off")
        server.content, server.answers = CHANGED, [Answer(checks=checks)]
        check_transfers(server, path, CHANGED)
    assert server.ranges[3:] == (["bytes=9000-"] if checks else ["bytes=9000-", None])


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_without_a_strong_tag_a_download_starts_again(path, tag):
    with WeightServer(CONTENT, CUT) as server:
        server.tag = tag
        check_transfers(server, path)
    assert server.ranges == [None, None]


def test_a_half_from_another_address_is_not_resumed(path):
    with WeightServer(CHANGED, *[Answer(sends=2000)] * 3) as server:
        server.tag = '"same"'
        check_fails(server, path, "cut off")
    with WeightServer(CONTENT) as server:
        server.tag = '"same"'
        check_transfers(server, path)
    assert server.ranges == [None]


@pytest.mark.parametrize("note", [None, "", "[]", '{"url": 1}', '{"half'])
def test_a_half_without_a_good_note_is_not_resumed(path, note):
    with open(path, "wb") as file:
        file.write(b"half")
    if note is not None:
        with open(f"{path}.json", "w") as file:
            file.write(note)
    with WeightServer(CONTENT) as server:
        check_transfers(server, path)
    assert server.ranges == [None]


@pytest.mark.parametrize("more", [1, -1])
def test_another_length_than_the_known_one_is_refused(path, more):
    known = len(CONTENT) + more
    with WeightServer(CONTENT) as server:
        message = f"announces {len(CONTENT)} bytes, where {known} are known"
        check_fails(server, path, message, num_bytes=known)
    assert len(server.ranges) == 1


def test_a_known_length_is_checked_where_none_is_announced(path):
    silent = Answer(announces_length=False)
    with WeightServer(CONTENT, *[silent] * 9) as server:
        known = len(CONTENT) - 1
        check_fails(server, path, f"more than the {known} bytes", num_bytes=known)
        assert not os.path.exists(path) and len(server.ranges) == 1
        known = len(CONTENT) + 1
        message = f"cut off after {len(CONTENT)} of {known} bytes"
        check_fails(server, path, message, num_bytes=known)
        assert os.path.getsize(path) == len(CONTENT)
        forget(path)
        check_transfers(server, path, num_bytes=len(CONTENT))


@pytest.mark.parametrize("status", [404, 403])
def test_what_is_not_there_is_not_asked_for_again(path, status):
    with WeightServer(CONTENT, Answer(status=status)) as server:
        check_fails(server, path, rf"HTTP status {status} \(.*\)$")
    assert len(server.ranges) == 1


def test_a_server_that_stays_broken_is_given_up(path, waits):
    with WeightServer(CONTENT, *[Answer(status=500)] * 9) as server:
        check_fails(server, path, "HTTP status 500 .Internal Server Error.")
    assert len(server.ranges) == 3 and waits == [1.0, 3.0]


def test_a_silent_server_is_given_up(path, monkeypatch, waits):
    monkeypatch.setattr(transfer_module, "TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/weights"
        start = time.monotonic()
        with pytest.raises(TransferError, match="^timed out$"):
            transfer(url, path)
    assert waits == [1.0, 3.0] and time.monotonic() - start < 2


def test_a_server_that_falls_silent_midway_is_resumed(path, monkeypatch):
    monkeypatch.setattr(transfer_module, "TIMEOUT", 0.05)
    with WeightServer(CONTENT, Answer(sends=9000, then_hangs=0.15)) as server:
        check_transfers(server, path)
    assert server.ranges == [None, "bytes=9000-"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_a_slow_download_shows_a_bar_in_a_terminal_only(path, monkeypatch, kind):
    monkeypatch.setattr(sys, "stderr", kind())
    monkeypatch.setattr(transfer_module, "BAR_DELAY", 0)
    with WeightServer(CONTENT, Answer(sends=9000), Answer(waits=0.03)) as server:
        check_transfers(server, path)
        shown = sys.stderr.getvalue()
    if kind is Terminal:
        last = shown.rstrip().rpartition("\r")[2]
        assert "weights: 100%" in last and f"{len(CONTENT) / 1000:.1f}k" in last and "B/s" in last
        assert f"weights:  {9000 / len(CONTENT):.0%}" in shown  # Where the second attempt starts.
    else:
        assert "weights:" not in shown
