"""Preparation: what is written."""

import json
import os

import pytest
import tensorflow as tf
from image_folder import jpeg, make_images
from prepared import config, examples, names

from efficientnetv2.datasets import open_source
from efficientnetv2.datasets.sources.files import make_indexed_source
from efficientnetv2.datasets.sources.manifest import read_manifest
from efficientnetv2.datasets.tools import prepare_plan
from efficientnetv2.datasets.tools.prepare import prepare
from efficientnetv2.hparams.config import SplitConfig, SplitsConfig


@pytest.fixture
def photos(tmp_path):
    make_images(tmp_path / "photos", {"ant": 30, "bee": 20})
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(prepare_plan, "SHARD_RECORDS", 8)


def test_records_have_the_official_layout_and_the_bytes_of_the_files(photos, tmp_path):
    out = tmp_path / "out"
    manifest = prepare(config(photos), str(out), seed=0).manifest
    assert manifest == read_manifest(str(out))
    assert (manifest.layout, manifest.class_names) == ("imagenet", ("ant", "bee"))
    for split, counts in {"train": (24, 16), "minival": (6, 4), "eval": (6, 4)}.items():
        assert manifest.splits[split].class_counts == counts
        assert manifest.splits[split].num_examples == sum(counts)
        manifest.verify_checksums(str(out), split)
        for example in examples(out, split):
            path = photos / example["image/filename"][0].decode()
            label = ["ant", "bee"].index(path.parent.name)
            assert example == {
                "image/encoded": [path.read_bytes()],
                "image/class/label": [label + 1],
                "image/class/text": [path.parent.name.encode()],
                "image/filename": [str(path.relative_to(photos)).encode()],
                "image/height": [12],
                "image/width": [16],
            }
    everything = names(out, "train") + names(out, "eval")
    assert sorted(everything) == sorted(f"{p.parent.name}/{p.name}" for p in photos.rglob("*.jpg"))
    assert manifest.settings["train"]["seed"] == 0
    assert manifest.settings["data"]["data_dir"] == str(photos)
    assert manifest.settings["short_side"] is None


def test_orders_and_shards(photos, tmp_path):
    out = tmp_path / "out"
    splits = prepare(config(photos), str(out), seed=3).manifest.splits
    shards = splits["train"].shards
    assert [shard.file for shard in shards] == [
        f"train-0000{i}-of-00005.tfrecord" for i in range(5)
    ]
    assert [shard.records for shard in shards] == [8] * 5
    assert [shard.records for shard in splits["eval"].shards] == [5, 5]
    assert splits["minival"] == splits["eval"]  # The same examples are written once.
    assert not list(out.glob("minival*"))

    def in_source(split, epoch):
        records = open_source(config(photos), split, 3).records(epoch)
        paths = [path.decode() for path, _ in records.as_numpy_iterator()]
        return [path.removeprefix(f"{photos}/") for path in paths]

    assert names(out, "train") == in_source("train", tf.constant(0, tf.int64))
    assert names(out, "train") != in_source("train", None)
    assert names(out, "eval") == in_source("eval", None)
    first = {name[:3] for name in names(out, "train")[:8]}
    assert first == {"ant", "bee"}


def test_large_images_make_shards_of_fewer_records(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_plan, "SHARD_BYTES", 3 * len(jpeg(0)) + 50)
    splits = prepare(config(photos), str(tmp_path / "out"), seed=0).manifest.splits
    assert {shard.records for shard in splits["train"].shards} <= {2, 3}


def test_splits_that_differ_are_both_written(tmp_path):
    for number, split in enumerate(("train", "val", "test")):
        make_images(tmp_path / "photos" / split, {"ant": 3, "bee": 2}, first=10 * number)
    prepare(config(tmp_path / "photos"), str(tmp_path / "out"), seed=0)
    for split, name in {"minival": "val", "eval": "test"}.items():
        assert {path.split("/")[0] for path in names(tmp_path / "out", split)} == {name}


def test_balanced_sampling_is_left_to_the_reader(photos, tmp_path):
    prepare(config(photos, class_balance="sample"), str(tmp_path / "out"), seed=0)
    found = names(tmp_path / "out", "train")
    assert len(set(found)) == len(found) == 40


def test_several_labels_per_image_make_the_21k_layout(photos, tmp_path, monkeypatch):
    paths = sorted(str(path) for path in photos.rglob("*.jpg"))
    labels = [[n for n in range(3) if (i >> n) & 1] for i in range(len(paths))]

    def source(data_config, split, seed):
        return make_indexed_source(paths, labels, ("x", "y", "z"), seed, multi_label=True)

    monkeypatch.setattr(prepare_plan, "open_source", source)
    out = tmp_path / "out"
    manifest = prepare(config(photos), str(out), seed=0).manifest
    assert (manifest.layout, len(manifest.splits["eval"].shards)) == ("imagenet21k", 7)
    assert examples(out, "eval") == [
        {
            "id": [os.path.relpath(path, photos).encode()],
            "image": [tf.io.read_file(path).numpy()],
            "labels": its_labels,
        }
        for path, its_labels in zip(paths, labels)
    ]
    assert manifest.splits["eval"].class_counts == tuple(
        sum(n in its_labels for its_labels in labels) for n in range(3)
    )


def test_the_short_side_is_reduced_and_small_images_are_copied(tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    make_images(photos, {"ant": 2, "bee": 2})
    large = tf.constant(jpeg(7, 64, 96))
    small = tf.clip_by_value(tf.io.decode_image(tf.constant(jpeg(8, 20, 30))), 50, 200)
    around = tf.constant([[-50, 30], [40, -20]], tf.int32)  # Around the mean of each 2 x 2 block.
    pixels = tf.repeat(tf.repeat(tf.cast(small, tf.int32), 2, 0), 2, 1)
    wide = tf.cast(pixels + tf.tile(around, [20, 30])[..., None], tf.uint16) * 257
    (photos / "ant" / "tall.jpg").write_bytes(
        tf.io.encode_jpeg(tf.transpose(tf.io.decode_image(large), [1, 0, 2])).numpy()
    )
    alpha = tf.concat([wide, tf.zeros_like(wide[..., :1])], 2)
    (photos / "ant" / "deep.png").write_bytes(tf.io.encode_png(alpha).numpy())
    prepare(config(photos, eval_fraction=0.1), str(out), seed=0, short_side=20)
    found = {
        e["image/filename"][0].decode(): e for e in examples(out, "train") + examples(out, "eval")
    }
    sizes = {
        name: tuple(tf.io.decode_jpeg(e["image/encoded"][0]).shape) for name, e in found.items()
    }
    assert sizes.pop("ant/tall.jpg") == (30, 20, 3)
    assert sizes.pop("ant/deep.png") == (20, 30, 3)
    assert set(sizes.values()) == {(12, 16, 3)}
    for name in sizes:
        assert found[name]["image/encoded"] == [(photos / name).read_bytes()]
    for name, e in found.items():
        height, width, _ = sizes.get(name) or tf.io.decode_jpeg(e["image/encoded"][0]).shape
        assert (e["image/height"], e["image/width"]) == ([height], [width])
    expected = tf.io.encode_jpeg(small, quality=95).numpy()
    assert found["ant/deep.png"]["image/encoded"] == [expected]


def test_the_plan_is_json_for_people(photos, tmp_path):
    prepare(config(photos), str(tmp_path / "out"), seed=0)
    plan = json.loads((tmp_path / "out" / "progress" / "plan.json").read_text())
    assert plan["same"] == {"minival": "eval"}
    assert plan["shards"] == {"train": 5, "eval": 2}


def test_prepared_records_are_a_source_and_a_split_without_files_is_left_out(photos, tmp_path):
    once, twice, alone = (tmp_path / name for name in ("once", "twice", "alone"))
    prepare(config(photos), str(once), seed=0)
    records = config(once, ds_name="tfrecord")
    splits = prepare(records, str(twice), seed=0).manifest.splits
    for split in splits:
        images = [
            sorted((e["image/encoded"], e["image/class/label"]) for e in examples(folder, split))
            for folder in (once, twice)
        ]
        assert images[0] == images[1]
    (once / "manifest.json").unlink()
    (tmp_path / "labels").write_text("ant\nbee\n")
    files = SplitConfig(files="train*")
    records = config(
        once,
        ds_name="tfrecord",
        label_file=str(tmp_path / "labels"),
        splits=SplitsConfig(train=files),
    )
    manifest = prepare(records, str(alone), seed=0).manifest
    assert list(manifest.splits) == ["train"]
    assert manifest.splits["train"].class_counts == (24, 16)


def test_a_listed_image_is_named_as_in_the_list(photos, tmp_path):
    paths = sorted(str(path.relative_to(tmp_path)) for path in photos.rglob("*.jpg"))
    rows = (f"{path},{path.split('/')[1]}\n" for path in paths)
    (tmp_path / "images.csv").write_text("path,label\n" + "".join(rows))
    out = tmp_path / "out"
    prepare(config(tmp_path / "images.csv", ds_name="csv"), str(out), seed=0)
    assert sorted(names(out, "train") + names(out, "eval")) == paths
