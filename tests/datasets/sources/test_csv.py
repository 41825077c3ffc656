"""Images listed in CSV files: columns, labels, splits, and what a user gets wrong."""

import pytest
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.sources.csv import open_csv
from efficientnetv2.hparams import DataConfig
from efficientnetv2.hparams.config import SplitConfig, SplitsConfig

IMAGES = [f"in/{i}.jpg" for i in range(30)]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "in").mkdir()
    for name in IMAGES:
        (tmp_path / name).write_text(f"bytes of {name}")
    return tmp_path


def write(root, **files):
    for name, text in files.items():
        (root / f"{name}.csv").write_text(text)


def opened(root, split="train", seed=0, **more):
    return open_csv(DataConfig(ds_name="csv", data_dir=str(root), **more), split, seed)


def listed(source, root, epoch=None):
    """[(path below root, label or labels)] of one epoch."""
    if epoch is not None:
        epoch = tf.constant(epoch, tf.int64)
    records = source.records(epoch)
    names = (
        n.decode().removeprefix(f"{root}/") for n in records.map(source.name_of).as_numpy_iterator()
    )
    labels = (label.tolist() for _, label in records.map(source.load).as_numpy_iterator())
    return list(zip(names, labels))


def test_a_file_per_split(root):
    write(
        root,
        train="in/0.jpg,dog\nin/1.jpg,cat\n\nin/2.jpg,dog,more,columns\n",
        validation=f"{root}/in/3.jpg, cat\n",
        test="in/4.jpg,dog\nin/5.jpg,cat\n",
    )
    train, minival, evaluation = (opened(root, split) for split in ("train", "minival", "eval"))
    assert listed(train, root) == [("in/0.jpg", 1), ("in/1.jpg", 0), ("in/2.jpg", 1)]
    assert listed(minival, root) == [("in/3.jpg", 0)]
    assert listed(evaluation, root) == [("in/4.jpg", 1), ("in/5.jpg", 0)]
    assert train.class_names == evaluation.class_names == ("cat", "dog")
    assert train.class_counts == (1, 2)
    image, _ = next(train.records(None).map(train.load).as_numpy_iterator())
    assert image == b"bytes of in/0.jpg"


def test_files_by_name_and_epochs(root):
    rows = "".join(f"{name},{'ab'[i % 2]}\n" for i, name in enumerate(IMAGES))
    write(root, mine=rows, val="in/0.jpg,a")
    splits = SplitsConfig(train=SplitConfig(files="mine.csv"))
    source = opened(root, splits=splits)
    first, second = listed(source, root, 0), listed(source, root, 1)
    assert sorted(first) == sorted(second) == sorted(listed(source, root))
    assert first != second
    balanced = opened(root, splits=splits, class_balance="sample")
    labels = [label for _, label in listed(balanced, root, 0)]
    assert labels.count(0) == labels.count(1) == 15


@pytest.mark.parametrize("header", ["path,label", "Label,other,PATH", "label, path"])
def test_a_header_gives_the_order_of_the_columns(root, header):
    row = {"path": "in/1.jpg", "label": "cat", "other": "x"}
    order = [name.strip().lower() for name in header.split(",")]
    row = ",".join(row[name] for name in order)
    other = row.replace("cat", "dog").replace("1.jpg", "2.jpg")
    write(root, train=f"\ufeff{header}\r\n{row}\r\n{other}\r\n", val=row)
    if order[0] != "path":  # A file without header has the path first.
        write(root, val=f"{header}\n{row}")
    assert listed(opened(root), root) == [("in/1.jpg", 0), ("in/2.jpg", 1)]
    assert listed(opened(root, "eval"), root) == [("in/1.jpg", 0)]


def test_numbers_as_labels(root):
    write(root, train="in/0.jpg,10\nin/1.jpg,9\nin/2.jpg,10", val="in/3.jpg,9")
    source = opened(root)
    assert source.class_names == ("9", "10")
    assert [label for _, label in listed(source, root)] == [1, 0, 1]


def test_a_label_file_names_and_orders_the_classes(root):
    (root / "labels.txt").write_text("zebra\nant\nbee\nbee\n")
    write(root, train="in/0.jpg,ant\nin/1.jpg,0\nin/2.jpg,3", val="in/3.jpg,zebra")
    more = {"label_file": str(root / "labels.txt")}
    source = opened(root, **more)
    assert source.class_names == ("zebra", "ant", "bee", "bee")
    assert [label for _, label in listed(source, root)] == [1, 0, 3]
    for label, words in (
        ("4", "'4' is no class of data.label_file=.*labels.txt"),
        ("bat", "'bat' is no class of .*; did you mean 'ant'"),
        ("bee", "'bee' names several classes; write its number"),
    ):
        write(root, val=f"in/3.jpg,zebra\nin/3.jpg,{label}")
        with pytest.raises(UserError, match=f"val.csv, line 2: {words}"):
            opened(root, "eval", **more)


def test_several_labels(root):
    write(
        root, train='in/0.jpg,b|a\nin/1.jpg,\nin/2.jpg,"c, d"\nin/3.jpg, a | a ', val="in/4.jpg,a"
    )
    source = opened(root, multiclass=True)
    assert source.class_names == ("a", "b", "c, d")
    assert [sorted(labels) for _, labels in listed(source, root)] == [[0, 1], [], [2], [0]]
    assert (source.multi_label, source.class_counts) == (True, (2, 1, 1))


@pytest.mark.parametrize("single", ["images.csv", "other.csv"])
def test_one_file_is_split_as_a_folder_is(root, single):
    rows = [(name, "big" if i < 20 else "small") for i, name in enumerate(IMAGES)]
    (root / single).write_text("\n".join(",".join(row) for row in rows))
    data_dir = root if single == "images.csv" else root / single
    parts = {s: listed(opened(data_dir, s), root) for s in ("train", "minival", "eval")}
    assert parts["minival"] == parts["eval"]
    assert not set(parts["train"]) & set(parts["eval"])
    assert sorted(parts["train"] + parts["eval"]) == sorted(
        (name, int(label == "small")) for name, label in rows
    )
    assert [sum(label == k for _, label in parts["eval"]) for k in (0, 1)] == [4, 2]
    assert parts["eval"] != listed(opened(data_dir, "eval", seed=1), root)
    labels = opened(data_dir, "eval", multiclass=True)
    assert labels.num_examples == 6


def test_images_of_train_in_another_split_are_reported(root, caplog):
    write(root, train="in/0.jpg,a\nin/1.jpg,b", val="in/2.jpg,a")
    opened(root, "eval")
    assert "of train" not in caplog.text
    write(root, val="in/1.jpg,b")
    opened(root, "eval")
    assert f"eval has 1 images of train, such as {root}/in/1.jpg" in caplog.text


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"train": "in/0.jpg,a\nin/1.jpg\n"}, "train.csv, line 2: needs path,label"),
        ({"train": "in/0.jpg,a\n,b\n"}, "train.csv, line 2: needs path,label"),
        ({"train": "in/0.jpg,a\nin/1.jpg,\n"}, "train.csv, line 2: needs path,label"),
        ({"train": "in/0.jpg,a\n\nin/no.jpg,b"}, "train.csv, line 3: there is no file .*in/no.jpg"),
        ({"train": "in/0.jpg,a\nout/0.jpg,b"}, "train.csv, line 2: there is no file .*out/0.jpg"),
        ({"train": "in/0.jpg,a\nin/1.jpg,a"}, "1 different labels, a classifier needs 2"),
        ({"train": ""}, "0 different labels"),
        (
            {"train": "in/0.jpg,a\nin/1.jpg,b", "val": "in/2.jpg,c"},
            "line 1: 'c' is no class of train",
        ),
        ({"train": "in/0.jpg,a\nin/1.jpg,b", "val": ""}, "no images for 'eval'"),
        ({"train": "x" * 200_000}, "train.csv, line 1: field larger than field limit"),
        ({"val": "in/0.jpg,a"}, "has no CSV file for train: train.csv and"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(root, files, words):
    write(root, **{"val": "in/0.jpg,a", **files})
    with pytest.raises(UserError, match=words) as caught:
        opened(root, "eval")
        opened(root, "train")
    assert "\n" not in str(caught.value)


def test_text_and_data_dirs_that_cannot_be_read(root):
    with pytest.raises(UserError, match="does not exist; pass --data_dir"):
        opened(root / "none")
    (root / "train.csv").write_bytes(b"in/0.jpg,\xff\xff")
    write(root, val="in/0.jpg,a")
    with pytest.raises(UserError, match="train.csv is no text in UTF-8"):
        opened(root)
    splits = SplitsConfig(train=SplitConfig(files="none.csv"))
    with pytest.raises(UserError, match="cannot read .*none.csv"):
        opened(root, splits=splits)
