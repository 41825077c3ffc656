"""Archives are unpacked whole and inside their folder, or not at all."""

import gzip
import os
import tarfile

import pytest
from weight_server import folder, make_archive, plain, special

from efficientnetv2.common.errors import UserError
from efficientnetv2.weights import download as unpack_module
from efficientnetv2.weights.download import find_checkpoint, unpack


def write(tmp_path, content):
    archive = tmp_path / "cache" / "weights.tgz"
    archive.parent.mkdir()
    archive.write_bytes(content)
    return str(archive), str(archive.parent / "out")


def check_refused(tmp_path, content, message):
    """Nothing but the archive is there afterwards, neither in the cache nor around it."""
    archive, out = write(tmp_path, content)
    with pytest.raises(UserError, match=message) as error:
        unpack(archive, out)
    assert archive in str(error.value) and "\n" not in str(error.value)
    assert [str(path) for path in tmp_path.rglob("*") if path.is_file()] == [archive]
    assert os.listdir(os.path.dirname(archive)) == ["weights.tgz"]


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_unpacks_to_a_checkpoint(tmp_path, mode):
    archive, out = write(tmp_path, make_archive(mode=mode))
    unpack(archive, out)
    prefix = find_checkpoint(out)
    assert prefix == os.path.join(out, "b0-21k", "model")
    assert os.path.getsize(f"{prefix}.data-00000-of-00001") == 20_000
    assert sorted(os.listdir(os.path.dirname(out))) == ["out", "weights.tgz"]


def test_finds_the_prefix_of_v1_archives(tmp_path):
    (tmp_path / "efficientnet-b0").mkdir()
    for name in ("model.ckpt.index", "model.ckpt.data-00000-of-00001", "model.ckpt.meta"):
        (tmp_path / "efficientnet-b0" / name).touch()
    assert find_checkpoint(str(tmp_path)) == str(tmp_path / "efficientnet-b0" / "model.ckpt")


@pytest.mark.parametrize("names", [[], ["._model.index"], ["a.index", "b.index"]])
def test_a_folder_without_one_checkpoint_is_a_user_error(tmp_path, names):
    for name in names:
        (tmp_path / name).touch()
    found = len(names) if "a.index" in names else 0
    with pytest.raises(UserError, match=f"hold one checkpoint, got {found} .*delete the folder"):
        find_checkpoint(str(tmp_path))


OUTSIDE = "has a name that may lead out of its folder"
NO_FILE = "is neither a file nor a folder"


@pytest.mark.parametrize(
    "members, name, why",
    [
        ([plain("../evil")], "../evil", OUTSIDE),
        ([plain("a/../../evil")], "a/../../evil", OUTSIDE),
        ([plain("a/..")], "a/..", OUTSIDE),
        ([folder("../evil")], "../evil", OUTSIDE),
        ([plain("..\\evil")], "..\\\\evil", OUTSIDE),
        ([plain("{root}/evil")], "{root}/evil", OUTSIDE),
        ([plain("C:\\evil")], "C:\\\\evil", OUTSIDE),
        ([special("out", tarfile.SYMTYPE, ".."), plain("out/evil")], "out", NO_FILE),
        ([special("in", tarfile.SYMTYPE, "model.index")], "in", NO_FILE),
        ([special("passwords", tarfile.LNKTYPE, "/etc/passwd")], "passwords", NO_FILE),
        ([plain("a"), special("b", tarfile.LNKTYPE, "a")], "b", NO_FILE),
        ([special("null", tarfile.CHRTYPE)], "null", NO_FILE),
        ([special("disk", tarfile.BLKTYPE)], "disk", NO_FILE),
        ([special("pipe", tarfile.FIFOTYPE)], "pipe", NO_FILE),
    ],
)
def test_a_malicious_member_is_refused_by_name(tmp_path, members, name, why):
    for member, _ in members:
        member.name = member.name.format(root=tmp_path)
    message = f"its member '{name.format(root=tmp_path)}' {why}; delete the archive"
    content = make_archive(members=[plain("model.index"), *members])
    archive, out = write(tmp_path, content)
    with pytest.raises(UserError) as error:
        unpack(archive, out)
    assert str(error.value) == f"{archive} is refused: {message}"
    assert [str(path) for path in tmp_path.rglob("*") if path.is_file()] == [archive]
    assert os.listdir(os.path.dirname(archive)) == ["weights.tgz"]


def test_what_the_standard_filter_refuses_is_refused_too(tmp_path, monkeypatch):
    def refuse(member, _):
        raise tarfile.OutsideDestinationError(member, "elsewhere")

    monkeypatch.setattr(tarfile, "data_filter", refuse)
    monkeypatch.setitem(tarfile._NAMED_FILTERS, "data", refuse)
    check_refused(tmp_path, make_archive(), "its member 'b0-21k' is unsafe; delete")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack_module, "MAX_UNPACKED_BYTES", 100_000)
    small, bomb = plain("small", bytes(60_000)), plain("bomb", bytes(60_000))
    check_refused(tmp_path, make_archive(members=[small, bomb]), "'bomb' of 60000 bytes .* 100000")


def test_a_name_with_a_null_byte_is_refused(tmp_path):
    member, content = plain("replaced")
    member.pax_headers = {"path": "model\0evil.index"}
    check_refused(tmp_path, make_archive(members=[(member, content)]), "evil.index' has a name")


def test_a_negative_size_is_refused_before_it_is_used(tmp_path, monkeypatch):
    member, _ = plain("negative")
    member.size = -1_000_000
    monkeypatch.delattr(tarfile.TarFile, "extract")
    header = gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    check_refused(tmp_path, header, "'negative' of -1000000 bytes breaks the limit|damaged")


def damage(content, how):
    middle = len(content) // 2
    return {
        "empty": b"",
        "a web page": b"<html>Log in</html>" * 99,
        "cut in the middle": content[:middle],
        "cut by one byte": content[:-1],
        "a byte flipped": content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :],
        "the checksum flipped": content[:-5] + bytes([content[-5] ^ 255]) + content[-4:],
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        "empty",
        "a web page",
        "cut in the middle",
        "cut by one byte",
        "a byte flipped",
        "the checksum flipped",
    ],
)
def test_a_damaged_archive_is_a_user_error(tmp_path, how):
    content = damage(make_archive(), how)
    check_refused(tmp_path, content, "weights.tgz is cut short, damaged or .*; delete it and try")


def test_a_write_error_leaves_no_folder_and_the_next_call_works(tmp_path, monkeypatch):
    archive, out = write(tmp_path, make_archive())
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, "fsync", full_disk)
        unpack(archive, out)
    assert os.listdir(os.path.dirname(out)) == ["weights.tgz"]
    unpack(archive, out)
    find_checkpoint(out)


def full_disk(_):
    raise OSError(28, "No space left on device")


def test_what_a_killed_process_left_is_not_mixed_in(tmp_path):
    archive, out = write(tmp_path, make_archive())
    os.makedirs(f"{out}.part")
    with open(os.path.join(f"{out}.part", "stale.index"), "w"):
        pass
    unpack(archive, out)
    assert find_checkpoint(out).endswith("model")
