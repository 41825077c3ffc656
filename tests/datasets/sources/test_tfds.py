"""TFDS names and the embedded data set as sources; small builders defined here, no network."""

import dataclasses
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.sources import shapes
from efficientnetv2.datasets.sources.tfds import default_splits, open_tfds
from efficientnetv2.hparams import DataConfig
from efficientnetv2.hparams.config import SplitConfig, SplitsConfig

SIZES = {"train": 24, "validation": 12, "test": 12}


def config(data_dir, ds_name="shapes", tfds_name=None, **expressions):
    splits = {
        split: SplitConfig(tfds_split=expressions.get(split))
        for split in ("train", "minival", "eval")
    }
    return DataConfig(
        ds_name=ds_name,
        data_dir=str(data_dir),
        tfds_name=tfds_name,
        splits=SplitsConfig(**splits),
    )


class _Numbers(tfds.core.GeneratorBasedBuilder):
    """Ten images of one value each in "train", nothing else."""

    VERSION = tfds.core.Version("1.0.0")
    features = {
        "image": tfds.features.Image(shape=(2, 2, 3)),
        "label": tfds.features.ClassLabel(names=["low", "high"]),
    }
    names = ("train",)
    labels = staticmethod(lambda index: index // 5)

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(dict(self.features))
        )

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples() for name in self.names}

    def _generate_examples(self):
        for index in range(10):
            image = np.full([2, 2, 3], index, np.uint8)
            yield index, {"image": image, "label": self.labels(index)}


class EnetOnlyTrain(_Numbers):
    pass


class EnetUnlabelledTest(_Numbers):
    names = ("train", "test")
    labels = staticmethod(lambda index: -1)


class EnetNoLabel(_Numbers):
    features = {
        "image": tfds.features.Image(shape=(2, 2, 3)),
        "label": tfds.features.Scalar(np.int64),
    }


class EnetDepth(_Numbers):
    features = {
        "image": tfds.features.Image(shape=(2, 2, 1), dtype=np.float32),
        "label": tfds.features.ClassLabel(num_classes=2),
    }

    def _generate_examples(self):
        yield 0, {"image": np.zeros([2, 2, 1], np.float32), "label": 0}


class EnetPixels(_Numbers):
    """Images that are stored as pixels, not encoded."""

    features = {
        "image": tfds.features.Tensor(shape=(2, 2, 3), dtype=np.uint8),
        "label": tfds.features.ClassLabel(names=["low", "high"]),
    }


class EnetSeveralLabels(_Numbers):
    features = {
        "image": tfds.features.Image(shape=(2, 2, 3)),
        "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=["odd", "high"])),
    }

    def _generate_examples(self):
        for index in range(10):
            labels = [0] * (index % 2) + [1] * (index // 5)
            yield index, {"image": np.full([2, 2, 3], index, np.uint8), "labels": labels}


class EnetByHand(_Numbers):
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Ask the authors for it."

    def _split_generators(self, dl_manager):
        return super()._split_generators(dl_manager.manual_dir)


@pytest.fixture(scope="module")
def shapes_dir(tmp_path_factory):
    """A directory with a small version of the shapes, prepared."""
    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes.Shapes, "split_sizes", SIZES)
        open_tfds(config(folder), "train", 0)
        yield folder


@pytest.fixture
def numbers(tmp_path):
    return lambda split, **more: open_tfds(
        config(tmp_path, "tfds", "enet_only_train", **more), split, 1
    )


def listed(source, epoch=None):
    if epoch is not None:
        epoch = tf.constant(epoch, tf.int64)
    return list(source.records(epoch).map(source.load).as_numpy_iterator())


def test_shapes_splits_are_what_render_gives(shapes_dir):
    for split, name in (("train", "train"), ("minival", "validation"), ("eval", "test")):
        source = open_tfds(config(shapes_dir), split, 0)
        found = {(tf.io.decode_png(b).numpy().tobytes(), int(label)) for b, label in listed(source)}
        pairs = (shapes.render(name, index) for index in range(SIZES[name]))
        assert found == {(image.tobytes(), label) for image, label in pairs}
        assert source.num_examples == len(found) == SIZES[name]
        assert source.class_names == shapes.CLASS_NAMES


def test_shapes_are_a_tfds_name_too(shapes_dir):
    assert open_tfds(config(shapes_dir, "tfds", "shapes"), "eval", 0).num_examples == 12


@pytest.mark.filterwarnings("ignore:.*___pyct_anno:DeprecationWarning")
def test_preparing_is_quiet_and_done_once(tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.setattr(shapes.Shapes, "split_sizes", SIZES)
    open_tfds(config(tmp_path), "train", 0)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == f"Rendering 48 images of shapes into {tmp_path}/shapes/1.0.0\n"
    monkeypatch.setattr(shapes, "render", None)  # would fail if it were rendered again
    open_tfds(config(tmp_path), "train", 0)
    assert capfd.readouterr() == ("", "")
    assert [r for r in caplog.records if r.levelname != "INFO"] == []


@pytest.mark.parametrize("damage", ["no info", "empty info", "short shard", "no shard"])
def test_a_broken_directory_is_prepared_again(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(shapes.Shapes, "split_sizes", {"train": 12, "test": 12})
    before = listed(open_tfds(config(tmp_path), "eval", 0))
    folder = tmp_path / "shapes" / "1.0.0"
    shard = next(folder.glob("*-test.tfrecord*"))
    if damage == "no info":
        (folder / "dataset_info.json").unlink()
    elif damage == "empty info":
        (folder / "dataset_info.json").write_text("")
    elif damage == "short shard":
        shard.write_bytes(shard.read_bytes()[:-100])
    else:
        shard.unlink()
    assert listed(open_tfds(config(tmp_path), "eval", 0)) == before


def test_two_processes_that_prepare_at_once(tmp_path, monkeypatch):
    """The other one finishes while this one renders."""
    monkeypatch.setattr(shapes.Shapes, "split_sizes", {"train": 12, "test": 12})
    generate = shapes.Shapes._generate_examples
    others = []

    def generate_late(self, split):
        if not others:
            others.append(True)
            shapes.Shapes(data_dir=tmp_path).download_and_prepare()
        yield from generate(self, split)

    monkeypatch.setattr(shapes.Shapes, "_generate_examples", generate_late)
    source = open_tfds(config(tmp_path), "train", 0)
    assert others
    assert len(listed(source, 0)) == source.num_examples == 12
    assert os.listdir(tmp_path / "shapes") == ["1.0.0"]  # nothing half is left


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="shapes cannot be prepared"):
        open_tfds(config(tmp_path / "file"), "train", 0)


def test_epochs_are_different_permutations_that_repeat(shapes_dir):
    source = open_tfds(config(shapes_dir), "train", 0)
    fixed, first, second = listed(source), listed(source, 0), listed(source, 1)
    assert sorted(fixed) == sorted(first) == sorted(second)
    assert fixed != first != second != fixed
    assert listed(source) == fixed
    epoch = source.records(tf.constant(1, tf.int64)).map(source.load)
    assert list(epoch.as_numpy_iterator()) == list(epoch.as_numpy_iterator()) == second
    tf.random.set_seed(99)  # Dataset.shuffle would follow it
    assert listed(source, 1) == second
    assert listed(open_tfds(config(shapes_dir), "train", 0), 1) == second
    assert listed(open_tfds(config(shapes_dir), "train", 1), 1) != second


def test_records_inside_flat_map_and_repeated(shapes_dir):
    source = open_tfds(config(shapes_dir), "train", 4)
    epochs = tf.data.Dataset.range(2).flat_map(source.records).map(source.load)
    expected = listed(source, 0) + listed(source, 1)
    assert list(epochs.as_numpy_iterator()) == expected
    assert list(epochs.as_numpy_iterator()) == expected


def test_load_gives_encoded_bytes_and_label(shapes_dir):
    source = open_tfds(config(shapes_dir), "train", 0)
    loaded = source.records(tf.constant(0, tf.int64)).map(source.load)
    assert loaded.element_spec == (tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64))
    assert int(loaded.cardinality()) == 24


@pytest.mark.parametrize(
    ("names", "minival", "evaluation"),
    [
        (("train", "test"), "test", "test"),
        (("train", "validation"), "validation", "validation"),
        (("train", "validation", "test"), "validation", "test"),
        (("train",), "train[90%:]", "train[90%:]"),
    ],
)
def test_default_splits(names, minival, evaluation):
    train = "train" if len(names) > 1 else "train[:90%]"
    assert default_splits(names) == {"train": train, "minival": minival, "eval": evaluation}


def test_only_a_train_split_is_divided(numbers):
    train, evaluation = numbers("train"), numbers("eval")
    assert (train.num_examples, evaluation.num_examples) == (9, 1)
    assert len(set(listed(train)) | set(listed(evaluation))) == 10
    assert train.class_names == ("low", "high")
    assert listed(numbers("minival")) == listed(evaluation)


def test_split_expressions_are_taken_and_checked(numbers):
    assert numbers("train", train="train[:5]").num_examples == 5
    with pytest.raises(UserError, match="no split 'dev'; its splits: train"):
        numbers("eval", eval="dev")
    with pytest.raises(UserError, match="has no examples"):
        numbers("eval", eval="train[10:]")


def test_splits_that_overlap_are_reported(numbers, caplog):
    numbers("eval", train="train[:5]", eval="train[5:]")
    assert "has examples of train" not in caplog.text
    numbers("eval", train="train[:6]", eval="train[5:]")
    assert "eval=train[5:] has examples of train" in caplog.text


def test_a_split_without_labels(tmp_path):
    with pytest.raises(UserError, match="has no labels; set data.splits.eval.tfds_split"):
        open_tfds(config(tmp_path, "tfds", "enet_unlabelled_test"), "eval", 0)


def test_pixels_become_png(tmp_path):
    source = open_tfds(config(tmp_path, "tfds", "enet_pixels"), "train", 0)
    found = {tf.io.decode_png(image).numpy().max(): label for image, label in listed(source)}
    assert len(found) == 9 and all(label == value // 5 for value, label in found.items())


def test_several_labels(tmp_path):
    data = config(tmp_path, "tfds", "enet_several_labels")
    source = open_tfds(dataclasses.replace(data, multiclass=True), "train", 0)
    assert source.multi_label and source.class_names == ("odd", "high")
    for image, labels in listed(source, 0):
        value = tf.io.decode_png(image).numpy().max()
        assert labels.tolist() == [0] * (value % 2) + [1] * (value // 5)
    element = source.records(None).map(source.load).element_spec
    assert element[1] == tf.TensorSpec([None], tf.int64)


def test_skipping_gives_the_tail_and_positions_give_records(numbers):
    source = numbers("train", train="train[2:9]")
    for epoch in (None, 3):
        number = None if epoch is None else tf.constant(epoch, tf.int64)
        full = listed(source, epoch)
        rest = source.records(number, 4).map(source.load)
        assert list(rest.as_numpy_iterator()) == full[4:]
        record = source.record_at(number, tf.constant([5], tf.int64))
        assert source.load(*(part[0] for part in record))[0].numpy() == full[5][0]
    assert sorted(full) == sorted(listed(source)) and len(full) == 7


@pytest.mark.parametrize("name", ["enet_only_train", "enet_several_labels"])
def test_a_broken_record(tmp_path, name):
    data = config(tmp_path, "tfds", name, eval="train[5:]")
    data = dataclasses.replace(data, multiclass=name != "enet_only_train")
    open_tfds(data, "eval", 0)
    (shard,) = (tmp_path / name / "1.0.0").glob("*.tfrecord*")
    content = bytearray(shard.read_bytes())
    content[-6] ^= 1  # Of the last record's data.
    shard.write_bytes(content)
    source = open_tfds(data, "eval", 0)
    words = "record 9 cannot be read: its checksum is wrong"
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        listed(source)
    source = open_tfds(dataclasses.replace(data, on_error="skip"), "eval", 0)
    images = [image for image, _ in listed(source)]
    assert [image == b"" for image in images] == [False] * 4 + [True]
    (name_of_last,) = source.records(None, 4).map(source.name_of).as_numpy_iterator()
    assert name_of_last.decode() == f"{shard}, record 9"


def test_names_from_a_label_file(tmp_path):
    (tmp_path / "labels.txt").write_text("few\nmany")
    data = config(tmp_path, "tfds", "enet_only_train")
    data = dataclasses.replace(data, label_file=str(tmp_path / "labels.txt"))
    assert open_tfds(data, "train", 0).class_names == ("few", "many")


def test_files_of_another_format(tmp_path, monkeypatch):
    open_tfds(config(tmp_path, "tfds", "enet_only_train"), "train", 0)
    other = tfds.core.FileFormat.ARRAY_RECORD
    monkeypatch.setattr(tfds.core.DatasetInfo, "file_format", property(lambda self: other))
    with pytest.raises(UserError, match="prepared as array_record files; prepare it as tfrecord"):
        open_tfds(config(tmp_path, "tfds", "enet_only_train"), "train", 0)


@pytest.mark.parametrize("name", ["enet_no_label", "enet_depth"])
def test_features_that_cannot_be_used(tmp_path, name):
    with pytest.raises(UserError, match="features image, label; choose a data set with"):
        open_tfds(config(tmp_path, "tfds", name), "train", 0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("enet_only_trian", "did you mean 'enet_only_train'"),
        ("enet_only_train/big", "cannot build 'enet_only_train/big'"),
        ("enet_only_train:9.9.9", "cannot be loaded at version 9.9.9"),
        (None, "tfds_name is needed"),
        ("enet_by_hand", "enet_by_hand cannot be prepared: Manual directory"),
    ],
)
def test_a_name_that_cannot_be_used_is_one_line(tmp_path, name, words):
    with pytest.raises(UserError, match=words) as caught:
        open_tfds(config(tmp_path, "tfds", name), "train", 0)
    assert "\n" not in str(caught.value)


def test_a_broken_directory_of_someone_else_is_not_deleted(tmp_path, numbers):
    folder = pathlib.Path(tmp_path, "enet_only_train", "1.0.0")
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match="not a complete TFDS data set; delete it"):
        numbers("train")
    assert folder.exists()
