"""TFRecord files in the official layouts, and prepared folders."""

import json

import pytest
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.labels import class_names_of
from efficientnetv2.datasets.sources.tfrecord import open_tfrecord
from efficientnetv2.hparams import DataConfig, get_config
from efficientnetv2.hparams.config import SplitConfig, SplitsConfig


def feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    values = value if isinstance(value, list) else [value]
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def write(path, *examples):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in examples:
            features = {name: feature(value) for name, value in example.items()}
            proto = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(proto.SerializeToString())


def imagenet(label, image=b"jpeg"):
    return {"image/encoded": image, "image/class/label": label, "image/filename": b"x.JPEG"}


def imagenet21k(*labels, image=b"jpeg"):
    return {"id": b"x", "image": image, "labels": list(labels)}


def config(folder, layout="imagenet", **more):
    splits = {
        "train": SplitConfig(files="train*", slice="2:"),
        "minival": SplitConfig(files="train*", slice=":2"),
        "eval": SplitConfig(files="val*"),
    }
    values = {"splits": SplitsConfig(**splits), "num_classes": 3, "record_layout": layout, **more}
    return DataConfig(ds_name="tfrecord", data_dir=str(folder), **values)


def loaded(source, epoch=None, skip=0):
    if epoch is not None:
        epoch = tf.constant(epoch, tf.int64)
    examples = source.records(epoch, skip).map(source.load)
    return [(image, label.tolist()) for image, label in examples.as_numpy_iterator()]


@pytest.fixture
def shards(tmp_path):
    """Five files of train, written in another order than their names', and one of val."""
    for shard in (3, 0, 4, 1, 2):
        examples = [imagenet(1 + (shard + i) % 3, b"%d-%d" % (shard, i)) for i in range(4)]
        write(tmp_path / f"train-{shard}", *examples)
    write(tmp_path / "validation-0", imagenet(3, b"v"))
    return tmp_path


def test_imagenet_layout(shards):
    source = open_tfrecord(config(shards), "train", 0)
    expected = [(b"%d-%d" % (s, i), (s + i) % 3) for s in (2, 3, 4) for i in range(4)]
    assert loaded(source) == expected
    assert (source.num_examples, source.class_names) == (12, ("0", "1", "2"))
    assert (source.multi_label, source.class_counts) == (False, None)
    shuffled = loaded(source, 0)
    assert sorted(shuffled) == expected != shuffled
    assert loaded(source, 0, 5) == shuffled[5:]
    element = source.records(None).map(source.load).element_spec
    assert element == (tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64))


def test_splits_are_slices_of_the_sorted_files(shards):
    train, minival, evaluation = (
        {image for image, _ in loaded(open_tfrecord(config(shards), split, 0))}
        for split in ("train", "minival", "eval")
    )
    assert minival == {b"%d-%d" % (s, i) for s in (0, 1) for i in range(4)}
    assert evaluation == {b"v"}
    assert not train & minival


def test_files_of_train_in_another_split_are_reported(shards, caplog):
    open_tfrecord(config(shards), "minival", 0)
    assert "has files of train" not in caplog.text
    splits = SplitsConfig(SplitConfig(files="train*"), SplitConfig(files="train*", slice="4:"))
    open_tfrecord(config(shards, splits=splits), "minival", 0)
    assert f"minival has files of train, such as {shards}/train-4" in caplog.text


def test_imagenet21k_layout(tmp_path):
    write(tmp_path / "train-0", imagenet21k(0, 2), imagenet21k(), imagenet21k(1))
    splits = SplitsConfig(SplitConfig(files="train-0"))
    source = open_tfrecord(config(tmp_path, "imagenet21k", splits=splits), "train", 0)
    assert [label for _, label in loaded(source)] == [[0, 2], [], [1]]
    assert source.multi_label
    element = source.records(None).map(source.load).element_spec
    assert element[1] == tf.TensorSpec([None], tf.int64)


@pytest.mark.parametrize(
    ("layout", "example", "words"),
    [
        ("imagenet", imagenet(0), "has image/class/label 0, outside of 1..3; are data.num_classes"),
        ("imagenet", imagenet(4), "has image/class/label 4, outside of 1..3"),
        ("imagenet", imagenet21k(1), "has image/class/label -1, outside of 1..3"),
        ("imagenet21k", imagenet21k(1, 3), "has labels 1 3, outside of 0..2"),
        ("imagenet21k", imagenet21k(-1), "has labels -1, outside of 0..2"),
    ],
)
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_label_outside_of_the_classes_names_file_and_record(
    tmp_path, layout, example, words, on_error
):
    good = imagenet(1) if layout == "imagenet" else imagenet21k(1)
    write(tmp_path / "val-0", good, example)
    source = open_tfrecord(config(tmp_path, layout, on_error=on_error), "eval", 0)
    with pytest.raises(tf.errors.InvalidArgumentError, match=words) as caught:
        loaded(source)
    assert f"{tmp_path}/val-0, record 1 has" in str(caught.value)


@pytest.mark.parametrize("layout", ["imagenet", "imagenet21k"])
def test_a_broken_record(tmp_path, layout):
    make = imagenet if layout == "imagenet" else imagenet21k
    path = tmp_path / "val-0"
    write(path, *(make(1, image=b"%d" % i * 50) for i in range(4)))
    content = bytearray(path.read_bytes())
    content[content.index(b"2" * 50)] ^= 1
    path.write_bytes(content)
    source = open_tfrecord(config(tmp_path, layout), "eval", 0)
    words = "val-0, record 2 cannot be read: its checksum is wrong"
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        loaded(source)
    source = open_tfrecord(config(tmp_path, layout, on_error="skip"), "eval", 0)
    assert [image for image, _ in loaded(source)] == [b"0" * 50, b"1" * 50, b"", b""]
    names = [n.decode() for n in source.records(None).map(source.name_of).as_numpy_iterator()]
    assert names == [f"{path}, record {i}" for i in range(4)]


def test_the_registered_imagenet_reads_the_official_files(tmp_path):
    for shard in range(22):
        write(tmp_path / f"train-{shard:05d}-of-01024", imagenet(1000), imagenet(1))
    write(tmp_path / "validation-00000-of-00128", imagenet(2))
    data = get_config("efficientnetv2-s", "ImageNet", data_dir=str(tmp_path)).data
    sources = [open_tfrecord(data, split, 0) for split in ("train", "minival", "eval")]
    assert [source.num_examples for source in sources] == [4, 40, 1]
    assert [label for _, label in loaded(sources[0])] == [999, 0, 999, 0]
    assert [name.split(",")[0] for name in sources[0].class_names[:2]] == ["tench", "goldfish"]


def test_the_registered_imagenet21k_reads_the_official_files(tmp_path):
    for shard in range(21):
        write(tmp_path / f"imagenet21k-{shard:05d}", imagenet21k(shard, 21_842))
    data = get_config("efficientnetv2-s", "imagenet21k", data_dir=str(tmp_path)).data
    sources = [open_tfrecord(data, split, 0) for split in ("train", "minival", "eval")]
    assert [source.num_examples for source in sources] == [1, 4, 16]
    assert loaded(sources[0]) == [(b"jpeg", [20, 21_842])]
    assert len(sources[0].class_names) == 21_843


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"splits": SplitsConfig()}, "data.splits.train.files is needed, such as train"),
        ({"splits": SplitsConfig(SplitConfig(files="x*"))}, "no file matches '.*/x\\*'"),
        (
            {"splits": SplitsConfig(SplitConfig(files="train*", slice="9:"))},
            "no file matches .* with data.splits.train.slice=9:",
        ),
        ({"splits": SplitsConfig(SplitConfig(files="train*", slice="9"))}, "slice must be like"),
        ({"splits": SplitsConfig(SplitConfig(files="train*", slice="a:"))}, "slice must be like"),
        ({"num_classes": None}, "set data.num_classes or data.label_file"),
    ],
)
def test_settings_that_cannot_be_used(shards, more, words):
    with pytest.raises(UserError, match=words) as caught:
        open_tfrecord(config(shards, **more), "train", 0)
    assert "\n" not in str(caught.value)


def test_no_data_dir_and_no_records(tmp_path):
    with pytest.raises(UserError, match="data_dir is needed"):
        open_tfrecord(DataConfig(ds_name="tfrecord"), "train", 0)
    write(tmp_path / "val-0")
    with pytest.raises(UserError, match="files of eval in .* have no records"):
        open_tfrecord(config(tmp_path), "eval", 0)


@pytest.fixture
def prepared(tmp_path):
    write(tmp_path / "train-00000-of-00001.tfrecord", imagenet(2), imagenet(1), imagenet(2))
    shard = {
        "file": "train-00000-of-00001.tfrecord",
        "records": 3,
        "bytes": (tmp_path / "train-00000-of-00001.tfrecord").stat().st_size,
        "sha256": "0" * 64,
    }
    train = {"num_examples": 3, "class_counts": [1, 2], "shards": [shard]}
    manifest = {
        "version": 1,
        "layout": "imagenet",
        "class_names": ["cat", "dog"],
        "settings": {},
        "splits": {"train": train, "eval": train},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def test_a_prepared_folder_says_what_it_holds(prepared):
    data = DataConfig(ds_name="tfrecord", data_dir=str(prepared))
    source = open_tfrecord(data, "train", 0)
    assert loaded(source) == [(b"jpeg", 1), (b"jpeg", 0), (b"jpeg", 1)]
    assert source.class_names == ("cat", "dog")
    assert source.class_counts == (1, 2)
    with pytest.raises(UserError, match="no split 'minival'"):
        open_tfrecord(data, "minival", 0)


def test_a_prepared_folder_whose_files_changed(prepared):
    path = prepared / "train-00000-of-00001.tfrecord"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="train-00000-of-00001.tfrecord is damaged"):
        open_tfrecord(DataConfig(ds_name="tfrecord", data_dir=str(prepared)), "train", 0)


def test_names_from_a_label_file(tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_bytes("\ufeffcat\ndog\n".encode())
    data = DataConfig(label_file=str(labels))
    assert class_names_of(data) == class_names_of(data, ("x", "y")) == ("cat", "dog")
    for known, count in ((("x", "y", "z"), None), (None, 3)):
        with pytest.raises(UserError, match="names 2 classes, but there are 3"):
            class_names_of(DataConfig(label_file=str(labels), num_classes=count), known)
    assert class_names_of(DataConfig(label_file="imagenet"))[999] == "toilet tissue"
    for content, words in (
        (b"cat\n\ndog", "no class name in line 2"),
        (b"\xff", "no text in UTF-8"),
    ):
        labels.write_bytes(content)
        with pytest.raises(UserError, match=words):
            class_names_of(data)
    with pytest.raises(UserError, match="cannot read data.label_file=.*none"):
        class_names_of(DataConfig(label_file=str(tmp_path / "none")))
