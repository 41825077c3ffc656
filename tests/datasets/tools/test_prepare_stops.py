"""Preparation that ends before its end: it goes on, and what a user gets wrong is named."""

import dataclasses
import os

import pytest
import tensorflow as tf
from image_folder import jpeg, make_images
from prepared import config, contents, names

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets import open_source
from efficientnetv2.datasets.tools import prepare_plan, shards
from efficientnetv2.datasets.tools.prepare import prepare


@pytest.fixture
def photos(tmp_path):
    make_images(tmp_path / "photos", {"ant": 30, "bee": 20})
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(prepare_plan, "SHARD_RECORDS", 8)


def test_a_stopped_preparation_goes_on_and_ends_with_the_same_bytes(photos, tmp_path, monkeypatch):
    prepare(config(photos), str(tmp_path / "whole"), seed=0)
    whole, out = contents(tmp_path / "whole"), tmp_path / "out"
    for stop_after in (2, 3):  # Counted anew in each run, so the second begins behind the first.
        written = []

        def stopping(folder, name, parts, written=written, stop_after=stop_after):
            if len(written) == stop_after:
                next(iter(parts))
                raise KeyboardInterrupt
            written.append(name)
            return shards.write_shard(folder, name, parts)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("efficientnetv2.datasets.tools.prepare.write_shard", stopping)
            prepare(config(photos), str(out), seed=0)
        assert not (out / "manifest.json").exists()
    (out / "train-00001-of-00005.tfrecord.part").write_bytes(b"half")
    result = prepare(config(photos), str(out), seed=0)
    assert (result.shards_kept, result.shards_written) == (5, 2)
    stale = contents(out)
    assert stale.pop("train-00001-of-00005.tfrecord.part") == b"half"
    assert stale == whole
    assert result.manifest.splits["train"].num_examples == 40


def test_a_finished_folder_is_kept_and_mended(photos, tmp_path):
    out = tmp_path / "out"
    prepare(config(photos), str(out), seed=0)
    whole = contents(out)
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.tfrecord")}
    again = prepare(config(photos), str(out), seed=0)
    assert (again.shards_kept, again.shards_written) == (7, 0)
    assert {path: path.stat().st_mtime_ns for path in times} == times

    shard = "{}-0000{}-of-0000{}.tfrecord".format
    damaged = bytearray(whole[shard("train", 1, 5)])
    damaged[100] ^= 1
    (out / shard("train", 1, 5)).write_bytes(damaged)
    (out / shard("train", 3, 5)).write_bytes(whole[shard("train", 3, 5)][:-1])
    (out / shard("eval", 0, 2)).unlink()
    (out / "progress" / f"{shard('eval', 1, 2)}.json").write_text("{")
    (out / "manifest.json").unlink()
    again = prepare(config(photos), str(out), seed=0)
    assert (again.shards_kept, again.shards_written) == (3, 4)
    assert contents(out) == whole


def test_other_settings_or_another_source_are_named(photos, tmp_path):
    out = tmp_path / "out"
    prepare(config(photos), str(out), seed=0)
    whole = contents(out)
    make_images(tmp_path / "other", {"ant": 30, "bee": 20})
    cases = [
        (config(photos), {"seed": 1}, "train.seed=0, now it is 1"),
        (config(photos), {"short_side": 9}, "short_side=null, now it is 9"),
        (config(photos, eval_fraction=0.3), {}, "data.eval_fraction=0.2, now it is 0.3"),
        (config(tmp_path / "other"), {}, 'data.data_dir=.*/photos", now it is .*/other"'),
    ]
    for data, arguments, message in cases:
        with pytest.raises(UserError, match=message) as error:
            prepare(data, str(out), **({"seed": 0} | arguments))
        assert "\n" not in str(error.value)
    make_images(photos, {"bee": 1}, first=99)
    with pytest.raises(UserError, match=r"splits.train.num_examples=40, now it is 41"):
        prepare(config(photos), str(out), seed=0)
    (photos / "bee" / "00099.jpg").unlink()
    (photos / "bee" / "00030.jpg").rename(photos / "bee" / "x.jpg")  # As many as before.
    with pytest.raises(UserError, match=r"sha256|num_examples"):
        prepare(config(photos), str(out), seed=0)
    (photos / "bee" / "x.jpg").rename(photos / "bee" / "00030.jpg")
    (photos / "bee").rename(photos / "wasp")
    with pytest.raises(UserError, match=r'class_names=\["ant", "bee"\], now it is .*wasp'):
        prepare(config(photos), str(out), seed=0)
    assert contents(out) == whole


@pytest.mark.parametrize("name", ["manifest.json", "train-00000-of-01024"])
def test_files_of_another_origin_are_not_written_over(photos, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("precious")
    with pytest.raises(UserError, match=f"has {name}, which this did not write"):
        prepare(config(photos), str(tmp_path / "out"), seed=0)
    assert (tmp_path / "out" / name).read_text() == "precious"


def test_the_output_may_not_become_part_of_the_source(photos):
    for out in (photos, photos / "records"):
        with pytest.raises(UserError, match="is in the data_dir"):
            prepare(config(photos), str(out), seed=0)
        assert sorted(os.listdir(photos)) == ["ant", "bee"]


@pytest.fixture
def bad_photos(photos):
    """Two of the training images are unreadable; which are for training follows from the seed."""
    train = open_source(config(photos), "train", 0)
    paths = [path.decode() for path, _ in train.records(None).as_numpy_iterator()]
    with open(paths[5], "r+b") as file:
        file.truncate(200)
    with open(paths[30], "wb"):
        pass
    return photos, (paths[5], paths[30])


def test_an_unreadable_image_ends_it_by_name_and_it_goes_on_when_mended(bad_photos, tmp_path):
    photos, bad = bad_photos
    out = tmp_path / "out"
    with pytest.raises(UserError, match="cannot read the image .*replace it") as error:
        prepare(config(photos), str(out), seed=0)
    assert sum(path in str(error.value) for path in bad) == 1
    assert "\n" not in str(error.value)
    assert not list(out.glob("*.part"))
    for path in bad:
        with open(path, "wb") as file:
            file.write(jpeg(1))
    assert prepare(config(photos), str(out), seed=0).manifest.splits["train"].num_examples == 40


def test_unreadable_images_are_left_out_where_that_is_asked_for(bad_photos, tmp_path, caplog):
    photos, bad = bad_photos
    out = tmp_path / "out"
    result = prepare(config(photos, on_error="skip", max_bad_share=0.05), str(out), seed=0)
    assert sorted(result.left_out["train"]) == sorted(bad)
    assert result.left_out["eval"] == result.left_out["minival"] == ()
    train = result.manifest.splits["train"]
    assert (train.num_examples, sum(train.class_counts)) == (38, 38)
    assert not {os.path.relpath(path, photos) for path in bad} & set(names(out, "train"))
    for path in bad:
        assert caplog.text.count(path) == 1
    whole = contents(out)

    again = prepare(config(photos, on_error="skip", max_bad_share=0.05), str(out), seed=0)
    assert (again.left_out, again.shards_written) == (result.left_out, 0)
    with pytest.raises(UserError, match="cannot read the image .*unreadable before"):
        prepare(config(photos), str(out), seed=0)
    with pytest.raises(UserError, match=r"2 of 40 images of train .*max_bad_share=0.04"):
        prepare(config(photos, on_error="skip", max_bad_share=0.04), str(out), seed=0)
    assert contents(out) == whole


def test_too_many_unreadable_images_end_it_in_the_first_run_and_the_next(bad_photos, tmp_path):
    data = config(bad_photos[0], on_error="skip", max_bad_share=0.04)
    for _ in range(2):  # The second run finds one image in a finished shard, and one behind it.
        with pytest.raises(UserError, match=r"2 of 40 images of train .*max_bad_share=0.04"):
            prepare(data, str(tmp_path / "out"), seed=0)
        notes = (tmp_path / "out" / "progress").glob("train*")
        assert any(path in note.read_text() for note in notes for path in bad_photos[1])
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_too_large_an_image_is_unreadable(photos, tmp_path):
    (photos / "ant" / "00003.jpg").write_bytes(jpeg(3, 20, 30))
    with pytest.raises(UserError, match="ant/00003.jpg: it has 30 x 20 pixels, more than"):
        prepare(config(photos, max_pixels=500), str(tmp_path / "out"), seed=0)


def test_a_full_disk_names_the_file_and_takes_nothing_for_complete(photos, tmp_path):
    prepare(config(photos), str(tmp_path / "whole"), seed=0)
    whole, out = contents(tmp_path / "whole"), tmp_path / "out"
    full = [
        "progress/plan.json",
        "progress/train-00000-of-00005.tfrecord.json",
        "train-00002-of-00005.tfrecord",
        "progress/eval-00001-of-00002.tfrecord.json",
        "manifest.json",
    ]
    for name in full:
        os.makedirs(out / "progress", exist_ok=True)
        os.symlink("/dev/full", out / f"{name}.part")
        with pytest.raises(UserError, match=f"cannot write .*{name}: No space left on device$"):
            prepare(config(photos), str(out), seed=0)
        assert not (out / name).exists()
        found = contents(out)
        assert found == {path: whole[path] for path in found}
    prepare(config(photos), str(out), seed=0)
    assert contents(out) == whole


def test_a_source_that_ends_early_or_breaks_off_is_no_success(photos, tmp_path, monkeypatch):
    def broken(records):
        def source(data_config, split, seed):
            good = open_source(data_config, split, seed)
            return dataclasses.replace(good, records=lambda *a: records(good.records(*a)))

        return source

    def raising(path, label):
        with tf.control_dependencies([tf.debugging.Assert(label == 0, ["gone"])]):
            return tf.identity(path), label

    for records, message in (
        (lambda records: records.take(39), "ended after 39 of 40"),
        (lambda records: records.map(raising), "gone"),
    ):
        monkeypatch.setattr(prepare_plan, "open_source", broken(records))
        with pytest.raises(UserError, match=message) as error:
            prepare(config(photos), str(tmp_path / message[:4]), seed=0)
        assert "\n" not in str(error.value)
        assert not (tmp_path / message[:4] / "manifest.json").exists()
