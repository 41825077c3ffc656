"""Lists of files as sources: order, skipping, random access, balance, several labels."""

import collections

import pytest
import tensorflow as tf

from efficientnetv2.datasets.sources import files
from efficientnetv2.datasets.sources.files import make_indexed_source

NAMES = ("a", "b", "c")
LABELS = [0] * 40 + [1] * 7 + [2] * 3
PATHS = [f"{i}.png" for i in range(50)]


def epoch_of(number):
    return None if number is None else tf.constant(number, tf.int64)


def listed(source, epoch=None, skip=0):
    return list(source.records(epoch_of(epoch), skip).as_numpy_iterator())


@pytest.fixture(params=[False, True], ids=["plain", "balanced"])
def source(request, monkeypatch):
    monkeypatch.setattr(files, "_BLOCK", 8)
    return make_indexed_source(PATHS, LABELS, NAMES, 3, balanced=request.param)


@pytest.mark.parametrize("epoch", [None, 0, 5])
def test_skipping_gives_the_tail(source, epoch):
    full = listed(source, epoch)
    assert len(full) == 50
    for skip in (0, 1, 8, 29, 50):
        assert listed(source, epoch, skip) == full[skip:]
        assert int(source.records(epoch_of(epoch), skip).cardinality()) == 50 - skip
    inside = tf.data.Dataset.from_tensors(tf.constant(7, tf.int64))
    inside = inside.flat_map(lambda skip: source.records(epoch_of(epoch), skip))
    assert list(inside.as_numpy_iterator()) == full[7:]


@pytest.mark.parametrize("epoch", [None, 0, 5])
def test_records_at_positions(source, epoch):
    full = listed(source, epoch)
    positions = [49, 0, 17, 17]
    found = source.record_at(epoch_of(epoch), tf.constant(positions, tf.int64))
    assert list(zip(*(part.numpy() for part in found))) == [full[p] for p in positions]


def test_orders_are_a_function_of_seed_and_epoch(source):
    assert listed(source, 1) == listed(source, 1) != listed(source, 2)
    balanced = sorted(listed(source, 1)) != sorted(listed(source))
    for seed, same in ((3, True), (4, False)):
        again = make_indexed_source(PATHS, LABELS, NAMES, seed, balanced=balanced)
        assert (listed(again, 1) == listed(source, 1)) == same
    assert listed(source) == list(zip((p.encode() for p in PATHS), LABELS))


def test_balanced_epochs_have_every_class_equally_often():
    source = make_indexed_source(PATHS, LABELS, NAMES, 3, balanced=True)
    drawn = collections.Counter()
    for epoch in range(20):
        records = listed(source, epoch)
        counts = collections.Counter(label for _, label in records)
        assert len(records) == 50 and set(counts.values()) == {16, 17}
        each = collections.Counter(records)
        for (_, label), times in each.items():  # The 16 or 17 draws go round the class.
            assert times in {0: (1,), 1: (2, 3), 2: (5, 6)}[label]
        drawn.update(path for path, label in records if label == 0)
    assert len(drawn) == 40  # Other examples of the large class in other epochs.
    assert source.class_counts == (40, 7, 3)


def test_balance_passes_over_classes_without_examples():
    source = make_indexed_source(["x", "y"], [0, 2], NAMES, 0, balanced=True)
    assert {label for _, label in listed(source, 0)} == {0, 2}
    assert source.class_counts == (1, 0, 1)


def test_several_labels(tmp_path):
    paths = [str(tmp_path / name) for name in "xyz"]
    for path in paths:
        tf.io.write_file(path, f"bytes of {path}")
    rows = [[0, 2], [], [1]]
    source = make_indexed_source(paths, rows, NAMES, 0, multi_label=True)
    loaded = source.records(None).map(source.load)
    assert loaded.element_spec[1] == tf.TensorSpec([None], tf.int64)
    found = [(image.decode(), labels.tolist()) for image, labels in loaded.as_numpy_iterator()]
    assert found == [(f"bytes of {path}", row) for path, row in zip(paths, rows)]
    names = source.records(None).map(source.name_of).as_numpy_iterator()
    assert [name.decode() for name in names] == paths
    assert (source.multi_label, source.class_counts) == (True, (1, 1, 1))


def test_several_labels_balanced(caplog):
    rows = [[0]] * 30 + [[0, 1]] * 2 + [[]] * 10 + [[1, 2]]
    source = make_indexed_source(PATHS[:43], rows, NAMES, 0, multi_label=True, balanced=True)
    assert "never draws the 10 examples without a label" in caplog.text
    drawn = collections.Counter(int(index) for _, index in listed(source, 0))
    assert not set(drawn) & set(range(32, 42))
    assert drawn[42] >= 14 + 4  # All draws of class 2, and a third of those of class 1.
