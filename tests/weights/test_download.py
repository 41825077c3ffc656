"""Weights by name, from a server on loopback, in a cache that is never half right."""

import dataclasses
import hashlib
import os
import pathlib
import socket
import threading

import pytest
from weight_server import Answer, WeightServer, make_archive, plain

from efficientnetv2.common.console import verbosity
from efficientnetv2.common.errors import UserError
from efficientnetv2.weights import download
from efficientnetv2.weights.download import fetch
from efficientnetv2.weights.pretrained import get_pretrained

ROW = get_pretrained("efficientnetv2-b0", "imagenet21k")
NAME = "efficientnetv2-b0-21k.tgz"
FOLDER = "efficientnetv2-b0-imagenet21k"
WHOLE = [NAME, f"{NAME}.lock", f"{NAME}.sha256", FOLDER]
CONTENT, CHANGED = make_archive(0), make_archive(1)
SUM, CHANGED_SUM = (hashlib.sha256(content).hexdigest() for content in (CONTENT, CHANGED))


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(download, "RETRY_WAITS", (0.0, 0.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server(monkeypatch):
    with WeightServer(CONTENT) as server:
        monkeypatch.setenv(download.URL_VARIABLE, f"{server.url}/mirror/")
        yield server


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def check_fetches(cache, content=CONTENT, row=ROW):
    prefix = fetch(row, str(cache))
    assert prefix == str(cache / FOLDER / "b0-21k" / "model")
    index = pathlib.Path(f"{prefix}.index").read_bytes()
    assert index == (b"index 0" if content is CONTENT else b"index 1")
    assert (cache / NAME).read_bytes() == content
    assert sorted(os.listdir(cache)) == WHOLE


def check_fails(cache, message, row=ROW):
    """Fails in one line, and leaves nothing new under a final name."""
    before = set(os.listdir(cache)) if cache.is_dir() else set()
    with pytest.raises(UserError, match=message) as error:
        fetch(row, str(cache))
    assert "\n" not in str(error.value)
    new = set(os.listdir(cache)) - before if cache.is_dir() else set()
    assert new <= {f"{NAME}.lock", f"{NAME}.part", f"{NAME}.part.json"}
    return str(error.value)


def advice(cache):
    return f"; try again, or download it elsewhere and put it at {cache / NAME}$"


def test_fetches_once_and_then_needs_no_server(cache, server, capfd):
    check_fetches(cache)
    assert capfd.readouterr().err == f"Downloading {server.url}/mirror/v2/{NAME} to {cache}\n"
    assert (cache / f"{NAME}.sha256").read_text() == f"{SUM}  {NAME}\n"
    check_fetches(cache)
    (cache / NAME).unlink()  # Only needed to unpack it once more.
    assert fetch(ROW, str(cache)).endswith("model")
    assert server.paths == [f"/mirror/v2/{NAME}"]
    assert capfd.readouterr().err == ""


def test_the_cache_is_the_argument_else_the_variable_else_below_home(tmp_path, monkeypatch, server):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(download.CACHE_VARIABLE, raising=False)
    assert fetch(ROW).startswith(str(tmp_path / "home" / ".cache" / "efficientnetv2"))
    monkeypatch.setenv(download.CACHE_VARIABLE, str(tmp_path / "variable"))
    assert fetch(ROW).startswith(str(tmp_path / "variable"))
    assert fetch(ROW, str(tmp_path / "argument")).startswith(str(tmp_path / "argument"))


def test_each_row_has_its_own_place(cache, server):
    other = get_pretrained("efficientnetv2-b0", "imagenet")
    assert fetch(ROW, str(cache)) != fetch(other, str(cache))
    assert server.paths[1] == "/mirror/v2/efficientnetv2-b0.tgz"


def test_a_cut_download_is_no_archive_and_is_resumed_by_the_next_call(cache, server):
    server.answers = [Answer(sends=5000)] * 3
    check_fails(cache, f"cut off after 15000 of {len(CONTENT)} bytes{advice(cache)}")
    check_fetches(cache)
    assert server.ranges[3:] == ["bytes=15000-"]


@pytest.mark.parametrize("status", [404, 500])
def test_an_error_of_the_server_says_what_to_do(cache, server, status):
    server.answers = [Answer(status=status)] * 3
    address = f"cannot download {server.url}/mirror/v2/{NAME}: "
    check_fails(cache, rf"^{address}HTTP status {status} \(.*\){advice(cache)}")


def test_offline_names_the_place_for_the_file_and_a_file_there_is_used(cache, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv(download.URL_VARIABLE, f"http://127.0.0.1:{port}")
    message = check_fails(cache, "Connection refused" + advice(cache))
    pathlib.Path(message.rpartition("put it at ")[2]).write_bytes(CONTENT)
    check_fetches(cache)


def test_without_names_of_hosts_the_publisher_is_named(cache, monkeypatch):
    def no_name(*_, **__):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    for variable in (download.URL_VARIABLE, "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    check_fails(cache, f"^cannot download {ROW.url}: Temporary failure in .*{advice(cache)}")


def test_an_address_that_is_none_is_a_user_error(cache, monkeypatch):
    monkeypatch.setenv(download.URL_VARIABLE, "/mnt/mirror")
    check_fails(cache, "WEIGHTS_URL must start with http.*got /mnt/mirror/v2/.*; to use a file")


def test_a_server_that_announces_too_little_leaves_no_archive(cache, server):
    server.answers = [Answer(announces=-400)]
    message = check_fails(cache, r"\.part is cut short, damaged or .*; delete it and try again$")
    os.remove(message.split(" is ")[0])
    check_fetches(cache)


def test_an_archive_without_a_checkpoint_is_a_user_error(cache, server):
    server.content = make_archive(members=[plain("readme")])
    with pytest.raises(UserError, match=f"{FOLDER} must hold one checkpoint, got 0 .*; delete"):
        fetch(ROW, str(cache))


def test_a_known_checksum_is_compared(cache, server):
    row = dataclasses.replace(ROW, sha256=SUM)
    server.content = CHANGED
    check_fails(cache, f"sha256 is {CHANGED_SUM}, but {SUM} is published; delete .*part$", row)
    (cache / f"{NAME}.part").unlink()
    server.content = CONTENT
    check_fetches(cache, row=row)


def test_a_recorded_checksum_is_compared_when_the_archive_is_read_again(cache, server):
    check_fetches(cache)
    os.rename(cache / FOLDER, cache / "moved")
    (cache / NAME).write_bytes(CHANGED)
    message = check_fails(cache, f"^{cache / NAME}: sha256 is {CHANGED_SUM}, but {SUM} is recorded")
    assert message.endswith(
        f"; delete {cache / NAME}, and {cache / NAME}.sha256 too if the published file has changed"
    )
    os.remove(cache / f"{NAME}.sha256")
    os.rename(cache / "moved", cache.parent / "moved")
    check_fetches(cache, CHANGED)


def test_a_recorded_checksum_is_compared_with_the_next_download(cache, server):
    check_fetches(cache)
    for name in (NAME, FOLDER):
        os.rename(cache / name, cache.parent / name)
    server.content = CHANGED
    check_fails(cache, f"part: sha256 is {CHANGED_SUM}, but {SUM} is recorded in .*sha256; delete")


def test_a_checksum_that_the_table_learns_later_is_compared(cache, server):
    server.content = CHANGED
    check_fetches(cache, CHANGED)
    check_fetches(cache, CHANGED, dataclasses.replace(ROW, sha256=CHANGED_SUM))
    message = f"{CHANGED_SUM}, but {SUM} is published; delete {cache / NAME} and {cache / FOLDER}$"
    check_fails(cache, message, dataclasses.replace(ROW, sha256=SUM))


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_process_that_dies_between_two_names_leaves_only_whole_ones(
    cache, server, monkeypatch, nth
):
    replace, calls = os.replace, []

    def dies(source, target):
        calls.append(target)
        if len(calls) == nth:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", dies)
        fetch(ROW, str(cache))
    assert not os.path.exists(calls[-1])
    assert not (cache / NAME).exists() or (cache / NAME).read_bytes() == CONTENT
    assert fetch(ROW, str(cache)).endswith("model")
    assert len(server.paths) == 1


def test_a_full_disk_is_a_user_error_and_is_gone_on_from(cache, server, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        check_fails(cache, f"cannot use {cache} as .*: No space left on device; make room, or name")
    check_fetches(cache)
    assert len(server.paths) == 1


def test_a_cache_that_cannot_be_made_is_a_user_error(tmp_path, server):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot use .*file/cache .*: Not a directory; .*CACHE$"):
        fetch(ROW, str(tmp_path / "file" / "cache"))


def test_two_at_once_fetch_once(cache, server, capfd):
    server.answers = [Answer(waits=0.02)]
    found = []

    def fetch_loudly():
        with verbosity(True):  # Each thread has its own.
            found.append(fetch(ROW, str(cache)))

    threads = [threading.Thread(target=fetch_loudly) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [str(cache / FOLDER / "b0-21k" / "model")] * 3
    assert len(server.paths) == 1
    assert capfd.readouterr().err.count(f"Waiting for a process that fetches {cache}") == 2
    check_fetches(cache)
