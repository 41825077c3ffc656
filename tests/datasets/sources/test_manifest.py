"""The manifest of prepared records: its exact form, and what a reader is told of damage."""

import hashlib
import json

import pytest

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.sources.manifest import (
    Manifest,
    PreparedSplit,
    Shard,
    read_manifest,
    write_manifest,
)

CONTENTS = {"train-00000-of-00002.tfrecord": b"first", "train-00001-of-00002.tfrecord": b"other"}


def shard(name, records):
    content = CONTENTS[name]
    return Shard(name, records, len(content), hashlib.sha256(content).hexdigest())


MANIFEST = Manifest(
    layout="imagenet",
    class_names=("ant", "Biene, groß"),
    settings={"train": {"seed": 3}, "short_side": None},
    splits={"train": PreparedSplit(5, (3, 2), tuple(map(shard, CONTENTS, (4, 1))))},
)


@pytest.fixture
def folder(tmp_path):
    for name, content in CONTENTS.items():
        (tmp_path / name).write_bytes(content)
    write_manifest(str(tmp_path), MANIFEST)
    return tmp_path


def test_the_file_has_the_stated_form_and_is_read_back(folder):
    values = json.loads((folder / "manifest.json").read_text())
    first = CONTENTS["train-00000-of-00002.tfrecord"]
    assert list(values) == ["version", "layout", "class_names", "settings", "splits"]
    assert (values["version"], values["layout"]) == (1, "imagenet")
    assert values["class_names"] == ["ant", "Biene, groß"]
    train = values["splits"]["train"]
    assert list(train) == ["num_examples", "class_counts", "shards"]
    assert (train["num_examples"], train["class_counts"]) == (5, [3, 2])
    assert train["shards"][0] == {
        "file": "train-00000-of-00002.tfrecord",
        "records": 4,
        "bytes": 5,
        "sha256": hashlib.sha256(first).hexdigest(),
    }
    manifest = read_manifest(str(folder))
    assert manifest == MANIFEST
    assert manifest.paths(str(folder), "train") == [str(folder / name) for name in CONTENTS]
    assert not list(folder.glob("*.part"))


def test_what_is_whole_passes(folder):
    read = []
    MANIFEST.verify_sizes(str(folder), "train")
    MANIFEST.verify_checksums(str(folder), "train", read.append)
    assert sum(read) == 10
    assert list(MANIFEST.faults(str(folder), "train")) == []


@pytest.mark.parametrize(
    ("damage", "reason", "by_size"),
    [
        (lambda path: path.unlink(), "missing", True),
        (lambda path: path.write_bytes(b"oth"), "3 bytes instead of 5", True),
        (lambda path: path.write_bytes(b"other!"), "6 bytes instead of 5", True),
        (lambda path: path.write_bytes(b"othen"), "sha256", False),
    ],
)
def test_a_damaged_shard_is_named(folder, damage, reason, by_size):
    path = folder / "train-00001-of-00002.tfrecord"
    damage(path)
    checks = [MANIFEST.verify_checksums] + [MANIFEST.verify_sizes] * by_size
    for check in checks:
        with pytest.raises(UserError, match=f"{path}.*{reason}"):
            check(str(folder), "train")
    if not by_size:
        MANIFEST.verify_sizes(str(folder), "train")
    [(fault, why)] = MANIFEST.faults(str(folder), "train")
    assert fault == str(path)
    assert reason in why


def test_an_unknown_split_is_refused(folder):
    for check in (MANIFEST.verify_sizes, MANIFEST.verify_checksums, MANIFEST.paths):
        with pytest.raises(UserError, match=r"no split 'eval'; it has train"):
            check(str(folder), "eval")


def test_a_folder_that_was_not_finished_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no manifest\.json.*finished"):
        read_manifest(str(tmp_path))


def edited(**changes):
    return lambda values: values | changes


def train_edited(**changes):
    return lambda values: values | {"splits": {"train": values["splits"]["train"] | changes}}


def shard_edited(**changes):
    def edit(values):
        shards = values["splits"]["train"]["shards"]
        return train_edited(shards=[shards[0] | changes, shards[1]])(values)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edited(version=2), "version 2, this program reads up to 1; update"),
        (edited(version="one"), "damaged.*version"),
        (edited(layout="coco"), "damaged.*'coco'"),
        (edited(class_names=["ant"]), "damaged.*classes"),
        (edited(splits=[]), "damaged"),
        (train_edited(num_examples=6), "damaged.*6 examples"),
        (train_edited(class_counts=[5]), "damaged.*1 classes"),
        (shard_edited(file="../secret"), "damaged.*outside"),
        (shard_edited(sha256=""), "damaged.*wrong entry"),
        (shard_edited(records="4"), "damaged"),
        (shard_edited(more=1), "damaged"),
        (lambda values: {k: v for k, v in values.items() if k != "layout"}, "damaged.*'layout'"),
        (lambda values: [values], "damaged"),
    ],
)
def test_a_damaged_or_newer_manifest_is_refused(folder, edit, message):
    path = folder / "manifest.json"
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=message) as error:
        read_manifest(str(folder))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b'{"version": 1, "layo', b"\xff\xfe\x00"])
def test_half_a_manifest_is_refused(folder, content):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read") as error:
        read_manifest(str(folder))
    assert "\n" not in str(error.value)
