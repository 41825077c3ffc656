"""`--mode=check_data` finds every fault, and nothing in good data."""

import dataclasses
import json

import broken_files
import pytest
import tensorflow as tf

from efficientnetv2.datasets.tools import check_files, findings
from efficientnetv2.datasets.tools.check import check_splits
from efficientnetv2.hparams import DataConfig

EXPECTED = {name: row[2] for name, row in broken_files.FAULTS.items()}


def check(folder=None, **more):
    config = DataConfig(**{"ds_name": "folder", "data_dir": str(folder), **more})
    told = []

    def progress(split, count):
        told.append([split, count, 0])

        def update(number):
            told[-1][2] += number

        return update

    found = check_splits(config, 0, progress)
    assert all(count == done for _, count, done in told)
    return found


def kinds(found):
    return findings.count_kinds(found.findings)


@pytest.fixture
def photos(tmp_path):
    broken_files.make_photos(tmp_path)
    return tmp_path


def test_good_data_have_no_findings(photos):
    found = check(photos)
    assert found.findings == []
    assert found.examples == {"train": 12, "minival": 12}
    assert found.class_counts["train"] == {"a": 6, "b": 6}


def test_every_fault_is_found_in_one_go(photos):
    """Also one after the other, and at both ends of a split."""
    paths = {}
    for index, (fault, (ending, content, _, _)) in enumerate(broken_files.FAULTS.items()):
        split = ("train", "val")[index % 2]
        paths[fault] = photos / split / "ab"[index // 2 % 2] / f"{fault}{ending}"
        broken_files.write(paths[fault], content)
    found = check(photos)
    for fault, path in paths.items():
        (finding,) = [each for each in found.findings if each.name == str(path)]
        assert finding.kind == EXPECTED[fault] and finding.is_error
        assert broken_files.FAULTS[fault][3] in finding.detail
        assert finding.split == ("train" if "/train/" in str(path) else "minival")
    assert len(found.findings) == len(paths)


def test_harmless_files_are_notes(photos):
    for name, (ending, content, _) in broken_files.HARMLESS.items():
        (photos / "train/a" / f"{name}{ending}").write_bytes(content)
    (photos / "train/a/readme.txt").write_text("no image")
    small = tf.io.encode_png(tf.zeros([31, 64, 3], tf.uint8)).numpy()
    (photos / "val/a/low.png").write_bytes(small)
    found = check(photos)
    assert not any(finding.is_error for finding in found.findings)
    for name, (ending, _, kind) in broken_files.HARMLESS.items():
        path = str(photos / "train/a" / f"{name}{ending}")
        assert [each.kind for each in found.findings if each.name == path][0] == kind
    assert kinds(found)["left out"] == 1
    (low,) = [each for each in found.findings if each.name.endswith("low.png")]
    assert low.kind == "small" and low.detail == "64 x 31 pixels" and low.split == "minival"


def test_damage_that_libjpeg_mends_is_a_note(photos, capfd):
    """Among many: it is found by what libjpeg writes to stderr, which tells no name."""
    good = broken_files.GOLDFISH
    for index in range(300):
        (photos / f"train/b/{index:03}.jpg").write_bytes(good + bytes([index % 256, index // 256]))
    for name in ("train/a/x.jpg", "train/b/150.jpg", "val/b/z.jpg"):
        middle = 17_117  # Elsewhere libjpeg may not notice.
        (photos / name).write_bytes(good[:middle] + bytes(60) + good[middle + 60 :] + name.encode())
    found = check(photos)
    damaged = {each.name for each in found.findings if each.kind == "damaged"}
    assert damaged == {
        str(photos / name) for name in ("train/a/x.jpg", "train/b/150.jpg", "val/b/z.jpg")
    }
    assert kinds(found) == {"damaged": 3, "skewed classes": 1}
    assert "JPEG data" in found.findings[0].detail
    assert "JPEG data" not in capfd.readouterr().err


def test_the_same_bytes_in_train_and_eval_are_an_error(photos):
    copy = (photos / "train/a/0.jpg").read_bytes()
    (photos / "val/a/copy.jpg").write_bytes(copy)
    (photos / "train/a/again.jpg").write_bytes(copy)
    (photos / "train/b/again.jpg").write_bytes((photos / "train/a/1.jpg").read_bytes())
    found = check(photos)
    assert kinds(found) == {"in train and eval": 2, "duplicate, other label": 1}
    leaks = [each for each in found.findings if each.kind == "in train and eval"]
    assert {each.name for each in leaks} == {
        str(photos / "train/a/0.jpg"),
        str(photos / "train/a/again.jpg"),
    }
    assert all(str(photos / "val/a/copy.jpg") in each.detail for each in leaks)


def test_duplicates_in_a_split_are_notes(photos):
    (photos / "train/a/again.jpg").write_bytes((photos / "train/a/1.jpg").read_bytes())
    found = check(photos)
    assert kinds(found) == {"duplicate": 1} and not found.findings[0].is_error


def test_what_keeps_a_folder_from_opening_is_all_found(photos):
    (photos / "train/empty").mkdir()
    (photos / "train/none").mkdir()
    (photos / "train/none/readme.txt").write_text("no image")
    (photos / "val/c").mkdir()
    (photos / "val/c/1.jpg").write_bytes(broken_files.GOLDFISH)
    (photos / "val/c/2.jpg").write_bytes(b"")
    found = check(photos)
    names = {finding.name: finding.kind for finding in found.findings}
    assert names[str(photos / "train/empty")] == "empty class folder"
    assert names[str(photos / "train/none")] == "empty class folder"
    assert names[str(photos / "val/c")] == "class not in train"
    assert names[str(photos / "val/c/2.jpg")] == "empty"  # Files are read all the same.
    assert kinds(found)["cannot be opened"] >= 1


def test_a_folder_that_is_not_there(tmp_path):
    found = check(tmp_path / "gone")
    assert kinds(found) == {"cannot be opened": 1}
    assert "is not a folder" in found.findings[0].detail


def test_classes_are_counted(tmp_path):
    broken_files.make_photos(tmp_path, per_class=2)
    for index in range(20):
        jpeg = tf.io.encode_jpeg(tf.fill([32, 32, 3], tf.cast(index * 9, tf.uint8))).numpy()
        (tmp_path / "train/a" / f"more{index}.jpg").write_bytes(jpeg)
    found = check(tmp_path)
    assert found.class_counts["train"] == {"a": 22, "b": 2}
    (finding,) = found.findings
    assert finding.kind == "skewed classes" and "a has 22, b 2" in finding.detail


def write_records(path, images, labels):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image, label in zip(images, labels):
            features = {
                "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
                "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())


def noise(seed):
    pixels = tf.random.stateless_uniform([40, 40, 3], [0, seed], 0, 256, tf.int32)
    return tf.io.encode_jpeg(tf.cast(pixels, tf.uint8)).numpy()


@pytest.fixture
def records(tmp_path):
    """(folder, the config's settings) of TFRecords of two classes."""
    write_records(tmp_path / "train-0", [noise(i) for i in range(6)], [1, 2] * 3)
    write_records(tmp_path / "train-1", [noise(i) for i in range(6, 12)], [1, 2] * 3)
    write_records(tmp_path / "val-0", [noise(i) for i in range(12, 16)], [1, 2] * 2)
    base = DataConfig().splits
    splits = dataclasses.replace(
        base,
        train=dataclasses.replace(base.train, files="train-*"),
        minival=dataclasses.replace(base.minival, files="val-*"),
        eval=dataclasses.replace(base.eval, files="val-*"),
    )
    return tmp_path, {"ds_name": "tfrecord", "num_classes": 2, "splits": splits}


def test_good_records_have_no_findings(records):
    folder, settings = records
    found = check(folder, **settings)
    assert found.findings == [] and found.class_counts["train"] == {"0": 6, "1": 6}


def test_broken_records_are_found_by_file_and_number(records):
    folder, settings = records
    data = bytearray((folder / "train-0").read_bytes())
    data[len(data) - 100] ^= 255  # In the last record's data: its checksum is wrong.
    (folder / "train-0").write_bytes(data)
    write_records(folder / "train-1", [noise(20), b"no image", noise(21), noise(22)], [1, 2, 3, 1])
    found = check(folder, **settings)
    names = {each.name: each for each in found.findings}
    assert names[f"{folder}/train-0, record 5"].kind == "broken record"
    assert "checksum" in names[f"{folder}/train-0, record 5"].detail
    assert names[f"{folder}/train-1, record 1"].kind == "not an image"
    assert "outside of 1..2" in names[f"{folder}/train-1, record 2"].detail
    assert len(names) == 3


def test_a_cut_off_record_file_is_found(records):
    folder, settings = records
    data = (folder / "train-0").read_bytes()
    (folder / "train-0").write_bytes(data[:-100])
    write_records(folder / "val-0", [noise(12), b"", noise(14)], [1, 2, 1])
    found = check(folder, **settings)
    assert kinds(found) == {"empty": 1, "cannot be opened": 1}
    (finding,) = [each for each in found.findings if each.kind == "cannot be opened"]
    assert "train-0" in finding.detail and "truncated" in finding.detail


@pytest.mark.parametrize("value", range(9))
@pytest.mark.parametrize("order", "<>")
def test_the_orientation_tag_is_read(value, order):
    image = broken_files.exif_rotated(value, order)
    assert list(check_files.describe(image)) == (["exif-rotated"] if value > 1 else [])


@pytest.mark.parametrize(
    "image",
    [
        broken_files.exif_rotated(),
        broken_files.read_format("frames.gif"),
        broken_files.read_format("cmyk.jpg"),
        broken_files.read_format("grey16.png"),
    ],
)
def test_headers_that_are_cut_off_raise_nothing(image):
    for length in range(0, len(image), max(len(image) // 300, 1)):
        list(check_files.describe(image[:length]))


def test_a_gif_of_one_frame_is_not_animated():
    one = broken_files.read_format("frames.gif")
    second = one.index(b"\x2c", one.index(b"\x2c") + 12)
    assert list(check_files.describe(one)) == ["animated"]
    candidates = [place for place in range(second, len(one)) if one[place] == 0x2C]
    still = [list(check_files.describe(one[:place] + b";")) for place in candidates]
    assert [] in still


def test_the_table_shows_the_first_of_each_kind():
    many = [findings.Finding("empty", "train", f"file {i}") for i in range(5)]
    table = findings.findings_table([*many, findings.Finding("cmyk", "eval", "x.jpg", "why")])
    assert "file 2" in table and "file 3" not in table and "..." in table
    assert "eval: x.jpg: why" in table and table.index("empty") < table.index("cmyk")
    assert findings.findings_table([]) == "nothing found"
    json.dumps([finding._asdict() for finding in many])
