"""The folder source: layouts, the stated split rule, order, and what a user gets wrong."""

import hashlib
import time

import numpy as np
import pytest
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.sources import files as indexed
from efficientnetv2.datasets.sources.folder import open_folder
from efficientnetv2.hparams import DataConfig

PNG = tf.io.encode_png(np.zeros([2, 2, 3], np.uint8)).numpy()


def add(root, *paths, content=PNG):
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def config(root, eval_fraction=0.2, **more):
    data_dir = None if root is None else str(root)
    return DataConfig(ds_name="folder", data_dir=data_dir, eval_fraction=eval_fraction, **more)


def listed(source, root, epoch=None):
    """[(path below root, label)] of one epoch."""
    if epoch is not None:
        epoch = tf.constant(epoch, tf.int64)
    return [
        (path.decode().removeprefix(f"{root}/"), int(label))
        for path, label in source.records(epoch).as_numpy_iterator()
    ]


@pytest.fixture
def tree(tmp_path):
    add(tmp_path, *(f"cat/{i}.png" for i in range(11)), *(f"dog/{i}.JPG" for i in range(6)))
    return tmp_path


def test_single_tree_is_split_by_the_stated_rule(tree):
    def digest(class_name, name):
        return hashlib.sha256(f"5/{class_name}/{name}".encode()).hexdigest()

    cats = sorted((f"{i}.png" for i in range(11)), key=lambda name: digest("cat", name))
    dogs = sorted((f"{i}.JPG" for i in range(6)), key=lambda name: digest("dog", name))
    held_out = {(f"cat/{n}", 0) for n in cats[:2]} | {(f"dog/{n}", 1) for n in dogs[:1]}

    train, minival, evaluation = (
        open_folder(config(tree), split, seed=5) for split in ("train", "minival", "eval")
    )
    assert set(listed(evaluation, tree)) == held_out
    assert listed(minival, tree) == listed(evaluation, tree)
    assert len(listed(train, tree)) == train.num_examples == 14
    assert not held_out & set(listed(train, tree))
    assert train.class_names == evaluation.class_names == ("cat", "dog")


def test_another_seed_gives_another_split(tree):
    splits = {str(listed(open_folder(config(tree), "eval", seed), tree)) for seed in range(5)}
    assert len(splits) > 1


def test_each_class_keeps_a_file_on_both_sides_where_it_has_two(tmp_path):
    add(tmp_path, "one/a.png", "two/a.png", "two/b.png", "five/a.png")
    labels = {
        split: sorted(
            label for _, label in listed(open_folder(config(tmp_path, f), s, 0), tmp_path)
        )
        for split, s, f in (("low", "eval", 0.01), ("high", "train", 0.99))
    }
    assert labels == {"low": [2], "high": [0, 1, 2]}


def test_the_split_does_not_depend_on_the_order_of_the_listing(tree, monkeypatch):
    before = listed(open_folder(config(tree), "eval", 0), tree)
    listdir = tf.io.gfile.listdir
    monkeypatch.setattr(tf.io.gfile, "listdir", lambda path: sorted(listdir(path))[::-1])
    assert listed(open_folder(config(tree), "eval", 0), tree) == before


@pytest.mark.parametrize(
    ("folders", "minival", "evaluation"),
    [
        (("train", "val"), "val", "val"),
        (("train", "validation"), "validation", "validation"),
        (("train", "test"), "test", "test"),
        (("train", "val", "test"), "val", "test"),
        (("Train", "valid"), "valid", "valid"),
    ],
)
def test_split_folders(tmp_path, folders, minival, evaluation):
    for name in folders:
        add(tmp_path, f"{name}/cat/a.png", f"{name}/dog/b.gif")
    expected = {"train": folders[0], "minival": minival, "eval": evaluation}
    for split, name in expected.items():
        source = open_folder(config(tmp_path), split, 0)
        assert listed(source, tmp_path) == [(f"{name}/cat/a.png", 0), (f"{name}/dog/b.gif", 1)]


def test_labels_follow_train_when_another_split_lacks_a_class(tmp_path):
    add(tmp_path, "train/ant/a.png", "train/bee/a.png", "val/bee/a.png")
    assert listed(open_folder(config(tmp_path), "eval", 0), tmp_path) == [("val/bee/a.png", 1)]


def test_endings_hidden_files_and_nested_folders(tmp_path, caplog):
    names = ["a.jpg", "b.JPEG", "c.Png", "d.bmp", "e.GIF", "in/side/f.png"]
    add(tmp_path, *(f"train/x/{name}" for name in names), "train/y/a.png", "val/x/a.png")
    add(tmp_path, "train/x/.hidden.png", "train/.cache/a.png", "train/x/.in/b.png")
    add(tmp_path, "train/x/notes.txt", "train/x/in/Thumbs.db", "train/labels.csv")
    with caplog.at_level("INFO", logger="absl"):
        found = listed(open_folder(config(tmp_path), "train", 0), tmp_path / "train")
    assert sorted(found) == sorted([*((f"x/{name}", 0) for name in names), ("y/a.png", 1)])
    assert [r.message for r in caplog.records if "left out 2 files" in r.message]


def test_load_reads_the_bytes(tmp_path):
    add(tmp_path, "train/a/1.png", "val/a/1.png")
    add(tmp_path, "train/b/1.png", content=b"other")
    source = open_folder(config(tmp_path), "train", 0)
    loaded = list(source.records(None).map(source.load).as_numpy_iterator())
    assert loaded == [(PNG, 0), (b"other", 1)]
    assert source.records(None).map(source.load).element_spec == (
        tf.TensorSpec([], tf.string),
        tf.TensorSpec([], tf.int64),
    )


def test_epochs_are_different_permutations_that_repeat(tree):
    source = open_folder(config(tree), "train", 3)
    fixed, first, second = (listed(source, tree, epoch) for epoch in (None, 0, 1))
    assert fixed == sorted(fixed) == sorted(first) == sorted(second)
    assert fixed != first != second != fixed
    tf.random.set_seed(99)
    again = open_folder(config(tree), "train", 3)
    assert listed(again, tree, 1) == second
    assert listed(source, tree) == fixed


def test_an_epoch_of_more_than_one_block_has_every_record_once(tree, monkeypatch):
    monkeypatch.setattr(indexed, "_BLOCK", 4)
    source = open_folder(config(tree), "train", 3)
    assert sorted(listed(source, tree, 2)) == listed(source, tree)
    assert int(source.records(tf.constant(2, tf.int64)).cardinality()) == source.num_examples


def test_the_order_depends_on_the_seed(tmp_path):
    for split in ("train", "val"):
        add(tmp_path, *(f"{split}/{c}/{i}.png" for c in "ab" for i in range(8)))
    orders = [listed(open_folder(config(tmp_path), "train", seed), tmp_path, 0) for seed in (1, 2)]
    assert orders[0] != orders[1]


def test_records_inside_flat_map(tree):
    source = open_folder(config(tree), "train", 3)
    epochs = tf.data.Dataset.range(2).flat_map(source.records)
    paths = [path.decode().removeprefix(f"{tree}/") for path, _ in epochs.as_numpy_iterator()]
    assert paths == [path for epoch in (0, 1) for path, _ in listed(source, tree, epoch)]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "has 0 class folders"),
        (["a.png"], "has 0 class folders"),
        (["all/cat/a.png", "all/dog/a.png"], "one level too high"),
        (["cat/a.png", "cat/b.png", "dog/a.txt"], "dog' has no image"),
        (["train/cat/a.png", "train/dog/a.png"], "no val or test; add a folder 'val'"),
        (["val/cat/a.png", "val/dog/a.png"], "no train; add a folder 'train'"),
        (["train/a/a.png", "train/b/a.png", "val/a/a.png", "validation/a/a.png"], "keep one"),
        (["train/a/a.png", "train/b/a.png", "val/c/a.png"], "class 'c' is in .*/val' but not in"),
    ],
)
def test_a_layout_that_cannot_be_used_is_one_line(tmp_path, files, words):
    add(tmp_path, *files)
    with pytest.raises(UserError, match=words) as caught:
        open_folder(config(tmp_path), "train", 0)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: str(p / "none"), lambda p: __file__])
def test_data_dir_that_is_no_folder(tmp_path, make):
    data_config = config(make(tmp_path))
    with pytest.raises(UserError, match="is not a folder; pass --data_dir="):
        open_folder(data_config, "train", 0)


def test_a_split_without_any_file(tmp_path):
    add(tmp_path, "a/1.png", "b/1.png")
    with pytest.raises(UserError, match="no images for 'eval'"):
        open_folder(config(tmp_path), "eval", 0)


def test_twenty_thousand_files_are_listed_in_a_moment(monkeypatch):
    """No look at each single file: on a bucket that would be a request each."""
    names = [f"{i}.jpg" for i in range(2000)]
    classes = [f"c{i}/" for i in range(10)]
    asked = []
    monkeypatch.setattr(
        tf.io.gfile, "listdir", lambda path: classes if path.endswith("data") else names
    )
    monkeypatch.setattr(tf.io.gfile, "isdir", lambda path: asked.append(path) is None)
    started = time.perf_counter()
    source = open_folder(config("gs://data", 0.1), "train", 0)
    assert source.num_examples == 18_000
    assert len(asked) < 30
    assert time.perf_counter() - started < 5
    assert next(source.records(None).as_numpy_iterator())[0].startswith(b"gs://data/c0/")
