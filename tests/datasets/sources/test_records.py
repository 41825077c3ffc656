"""TFRecord files as streams: order, resumption, budget, broken files."""

import gzip
import pathlib
import shutil

import pytest
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.sources import records as record_blocks
from efficientnetv2.datasets.sources import records as record_scan
from efficientnetv2.datasets.sources.records import Piece, RecordFiles, make_blocks, record_offsets

FILES, EACH, SIZE = 5, 300, 3000
TOTAL = FILES * EACH
MIB = 2**20


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """1,500 records of 3,000 bytes in 5 files, numbered in their first five bytes."""
    folder = tmp_path_factory.mktemp("records")
    found = []
    for file in range(FILES):
        found.append(str(folder / f"{file}.tfrecord"))
        with tf.io.TFRecordWriter(found[-1]) as writer:
            for number in range(file * EACH, (file + 1) * EACH):
                writer.write(b"%05d" % number + b"x" * (SIZE - 5))
    return found


@pytest.fixture(scope="module")
def windows(paths):
    """With many windows per epoch."""
    return RecordFiles([Piece(path) for path in paths], 3, memory_mb=1)


@pytest.fixture(scope="module")
def whole(paths):
    """All in one window, and so in whole files."""
    return RecordFiles([Piece(path, 0, EACH, EACH) for path in paths], 3, memory_mb=64)


def epoch_of(number):
    return None if number is None else tf.constant(number, tf.int64)


def listed(files, epoch=None, skip=0):
    records = files.records(epoch_of(epoch), skip)
    return [(int(data[:5]), int(number)) for data, number in records.as_numpy_iterator()]


def copy(path, folder, change):
    content = bytearray(pathlib.Path(path).read_bytes())
    changed = folder / "changed.tfrecord"
    changed.write_bytes(change(content))
    return str(changed)


def test_the_fixed_order_is_that_of_the_files(windows, whole):
    assert listed(windows) == listed(whole) == [(i, i) for i in range(TOTAL)]
    assert windows.num_records == whole.num_records == TOTAL


@pytest.mark.parametrize("name", ["windows", "whole"])
def test_epochs_are_permutations_by_seed_and_epoch(name, request, paths):
    files = request.getfixturevalue(name)
    first, second = listed(files, 1), listed(files, 2)
    assert sorted(first) == sorted(second) == listed(files)
    assert first != second
    tf.random.set_seed(99)  # Dataset.shuffle would follow it
    assert listed(files, 1) == first
    known = EACH if name == "whole" else None
    memory = 64 if name == "whole" else 1
    for seed, same in ((3, True), (4, False)):
        other = RecordFiles([Piece(p, 0, known, known) for p in paths], seed, memory_mb=memory)
        assert (listed(other, 1) == first) == same


@pytest.mark.parametrize("name", ["windows", "whole"])
@pytest.mark.parametrize("epoch", [None, 1])
def test_skipping_gives_the_tail(name, epoch, request):
    files = request.getfixturevalue(name)
    full = listed(files, epoch)
    for skip in (1, 299, 300, 777, TOTAL - 1, TOTAL):
        assert listed(files, epoch, skip) == full[skip:]
        assert int(files.records(epoch_of(epoch), skip).cardinality()) == TOTAL - skip


def test_skipping_reads_no_windows_before(windows, monkeypatch):
    read, original = [], RecordFiles._read

    def noted(self, path, offset, passed, count, first):
        first = tf.numpy_function(lambda n: read.append(int(n)) or n, [first], tf.int64)
        return original(self, path, offset, passed, count, tf.reshape(first, []))

    full = listed(windows, 1)
    start = int(windows._plan(epoch_of(1)).positions[-2])  # Of the last window.
    monkeypatch.setattr(RecordFiles, "_read", noted)
    assert listed(windows, 1, TOTAL - 2) == full[-2:]
    numbers = {number for _, number in full[start:]}
    assert read and set(read) <= numbers
    read.clear()
    assert listed(windows, None, TOTAL - 2) == [(TOTAL - 2, TOTAL - 2), (TOTAL - 1, TOTAL - 1)]
    assert len(read) == 1


def test_records_inside_flat_map(windows):
    epochs = tf.data.Dataset.range(2).flat_map(windows.records)
    found = [int(number) for _, number in epochs.as_numpy_iterator()]
    assert found == [number for epoch in (0, 1) for _, number in listed(windows, epoch)]


@pytest.mark.parametrize("epoch", [None, 1])
def test_records_at_positions(windows, epoch):
    full = listed(windows, epoch)
    positions = [1499, 0, 777, 777]
    data, numbers = windows.record_at(epoch_of(epoch), tf.constant(positions, tf.int64))
    found = [(int(d[:5]), int(n)) for d, n in zip(data.numpy(), numbers.numpy())]
    assert found == [full[p] for p in positions]


def test_names(windows, paths):
    assert windows.name_of(tf.constant(0, tf.int64)).numpy().decode() == f"{paths[0]}, record 0"
    assert windows.name_of(tf.constant(600, tf.int64)).numpy().decode() == f"{paths[2]}, record 0"
    assert windows.name_of(tf.constant(1499, tf.int64)).numpy().decode().endswith("record 299")


def test_parts_of_files(paths):
    pieces = [
        Piece(paths[1], 290, 10, EACH),
        Piece(paths[0], 5, 3, EACH),
        Piece(paths[2], 0, 0, EACH),
    ]
    for memory_mb in (64, 1):
        files = RecordFiles(pieces, 0, memory_mb=memory_mb)
        assert [data for data, _ in listed(files)] == [*range(590, 600), 5, 6, 7]
        assert sorted(listed(files, 0)) == sorted(listed(files))
        assert files.name_of(tf.constant(11, tf.int64)).numpy().decode() == f"{paths[0]}, record 6"
        assert int(files.record_at(None, tf.constant([12]))[0][0].numpy()[:5]) == 7


def test_parts_of_files_that_are_cut(paths):
    pieces = [Piece(path, 100, 200, EACH) for path in paths]
    files = RecordFiles(pieces, 0, memory_mb=1)
    assert len(files._blocks.count) > len(pieces)
    assert [data for data, _ in listed(files)] == [i for i in range(TOTAL) if i % EACH >= 100]
    assert sorted(listed(files, 0)) == listed(files)


def test_a_window_and_what_is_ready_fit_the_budget(windows):
    """Each holds half of a MiB: the window of the shuffle buffer, and the prefetched records."""
    for epoch in range(3):
        positions = windows._plan(epoch_of(epoch)).positions.numpy()
        largest = max(positions[1:] - positions[:-1])
        assert MIB // 4 < largest * SIZE <= MIB // 2
    assert windows._half_records * SIZE <= MIB // 2
    mixed = [number // EACH for _, number in listed(windows, 0)[:100]]
    assert set(mixed) == set(range(FILES))  # A window has blocks from everywhere.


def test_blocks_that_cannot_be_cut_are_shuffled_within_the_budget(paths, monkeypatch, caplog):
    monkeypatch.setattr(record_blocks, "is_local", lambda path: False)
    files = RecordFiles([Piece(path, 0, EACH, EACH) for path in paths], 3, memory_mb=1)
    assert len(files._blocks.count) == FILES
    full = listed(files, 0)
    assert sorted(full) == listed(files) != full
    half = files._half_records
    assert half * SIZE <= MIB // 2
    firsts = [number % EACH for _, number in full[:half]]  # Of the first file that is read.
    assert sorted(firsts) == list(range(half)) != firsts
    assert listed(files, 0, 777) == full[777:]
    data, _ = files.record_at(epoch_of(0), tf.constant([777]))
    assert int(data[0].numpy()[:5]) == full[777][0]
    assert "shuffling mixes about 1.0 of 5 files at a time; raise data.memory_mb" in caplog.text


def test_blocks_have_at_most_1024_records(tmp_path):
    path = str(tmp_path / "small")
    with tf.io.TFRecordWriter(path) as writer:
        for _ in range(80_000):
            writer.write(b"x")
    pieces, blocks = make_blocks([Piece(path)], window_bytes=1_250_000)
    assert pieces == [Piece(path, 0, 80_000, 80_000)]
    assert blocks.count.max() == 1024 and blocks.count.sum() == 80_000


def test_known_numbers_save_the_scan(paths, monkeypatch):
    monkeypatch.setattr(record_scan, "_walk", None)
    RecordFiles([Piece(path, 0, EACH, EACH) for path in paths], 3, memory_mb=64)


def test_remote_files_are_read_through(paths, monkeypatch, caplog):
    local = record_offsets(paths[0]).tolist()
    monkeypatch.setattr(record_scan, "is_local", lambda path: False)
    assert record_offsets(paths[0]).tolist() == local
    assert RecordFiles([Piece(paths[0])], 0, memory_mb=64).num_records == EACH
    assert "reading 1 remote TFRecord files once to count their records" in caplog.text


@pytest.mark.parametrize("remote", [False, True])
def test_a_file_that_is_no_whole_tfrecord_file(paths, tmp_path, monkeypatch, remote):
    monkeypatch.setattr(record_scan, "is_local", lambda path: not remote)
    for change in (lambda c: c[:-10], lambda c: c[:5000] + c[5001:], gzip.compress):
        path = copy(paths[0], tmp_path, change)
        with pytest.raises(UserError, match="cannot read" if remote else "truncated") as caught:
            RecordFiles([Piece(paths[1]), Piece(path)], 0, memory_mb=64)
        assert path in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(UserError, match=f"cannot read {tmp_path}/none"):
        RecordFiles([Piece(str(tmp_path / "none"))], 0, memory_mb=64)


def test_a_file_with_another_number_of_records(paths):
    with pytest.raises(UserError, match="has 300 records instead of 299"):
        RecordFiles([Piece(paths[0], 0, 299, 299)], 0, memory_mb=1)


def test_what_is_broken_becomes_empty_to_the_end_of_its_block(paths, tmp_path):
    def flip(content):
        content[(SIZE + 16) * 100 + 500] ^= 1
        return content

    broken = copy(paths[0], tmp_path, flip)
    for memory_mb, last in ((64, EACH), (1, None)):
        files = RecordFiles([Piece(broken), Piece(paths[1])], 0, memory_mb=memory_mb)
        ordered = list(files.records(None).as_numpy_iterator())
        empty = [int(number) for data, number in ordered if not data]
        assert empty[0] == 100 and empty == list(range(100, empty[-1] + 1))
        assert empty[-1] < 110 if last is None else empty[-1] == last - 1
        assert [int(number) for _, number in ordered] == list(range(600))
        shuffled = list(files.records(epoch_of(0)).as_numpy_iterator())
        assert sorted(int(number) for data, number in shuffled if not data) == empty
        assert sorted(int(number) for _, number in shuffled) == list(range(600))


@pytest.mark.parametrize("put", [lambda path: None, lambda path: path.mkdir()])
def test_a_file_that_goes_while_training_becomes_empty_records(paths, tmp_path, put):
    copied = tmp_path / "a"
    shutil.copy(paths[0], copied)
    files = RecordFiles([Piece(str(copied)), Piece(paths[1])], 0, memory_mb=64)
    copied.unlink()
    put(copied)
    found = list(files.records(epoch_of(0)).as_numpy_iterator())
    assert sorted(int(number) for _, number in found) == list(range(2 * EACH))
    assert {int(number) for data, number in found if not data} == set(range(EACH))
