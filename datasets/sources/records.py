"""TFRecord files as a resumable stream of records, shuffled within a memory budget.

A TFRecord file is a sequence of (length, 8 bytes; checksum, 4; data; checksum, 4). Files are
indexed, without reading the data, as a table of blocks: runs of records that are read from an
offset.

An epoch is a permutation of the blocks that is a function of (seed, epoch). It is divided into
windows, runs of blocks that together fit in half of the budget. A window is read as a whole, and
its records are returned in another permutation, while the other half of the budget holds those of
the previous window. The stream can therefore start at any position after reading at most one
window, and the record at a position is located without reading any data.
"""

import os
import time
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.text import one_line
from efficientnetv2.datasets.sources.files import shuffled_index

RECORD_OVERHEAD = 16  # bytes of a record that are not data
_SCAN_THREADS = 16  # mostly waiting for the disk
_SLOW = 5.0  # seconds after which a scan is logged
BLOCKS_PER_WINDOW = 64  # parts of the data that are mixed, if blocks can be divided
MEMORY_OVERHEAD = 256  # bytes of a record in a buffer in addition to its data
_MOST_RECORDS = 1024  # in a block of a divided piece
_READ_THREADS = 32  # mostly waiting for a remote file system
_READ_BUFFER = 1 << 20  # bytes
_GATHERED = 64  # records that are gathered at once, ten times as fast as one by one
_FEW_BLOCKS = 16  # in a window; fewer are logged


def is_local(path: str) -> bool:
    """Returns whether a file is local, so that it can be read at any position at no cost."""
    return "://" not in path


def record_offsets(path: str) -> np.ndarray:
    """Returns the byte offsets of a file's records and of the file's end: int64 [records + 1].

    Only the lengths are read from a local file; a remote file is read completely, with checksums.

    Raises: UserError if the file cannot be read, or if its last record does not end at its end.
    """
    try:
        return _walk(path) if is_local(path) else _read_through(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except tf.errors.OpError as error:
        raise UserError(f"cannot read {path}: {one_line(str(error))}") from error


def scan_files(paths: Sequence[str]) -> list[np.ndarray]:
    """Runs `record_offsets` on several files in parallel."""
    if not paths:
        return []
    remote = sum(not is_local(path) for path in paths)
    if remote:
        logging.warning(
            "reading %d remote TFRecord files once to count their records; --mode=prepare writes "
            "a manifest that saves this",
            remote,
        )
    started = time.monotonic()
    with ThreadPool(min(_SCAN_THREADS, len(paths))) as pool:
        offsets = pool.map(record_offsets, paths, chunksize=1)
    taken = time.monotonic() - started
    if taken > _SLOW:
        records = sum(len(each) - 1 for each in offsets)
        logging.info("counted %d records in %d files in %.0f s", records, len(paths), taken)
    return offsets


def _walk(path: str) -> np.ndarray:
    offsets = [0]
    # Not with tf.io.gfile, which fills a buffer of half a megabyte after each seek.
    with open(path, "rb", buffering=0) as file:
        number, size = file.fileno(), os.fstat(file.fileno()).st_size
        while offsets[-1] < size:
            length = int.from_bytes(os.pread(number, 8, offsets[-1]), "little")
            end = offsets[-1] + length + RECORD_OVERHEAD
            if end > size:
                raise UserError(
                    f"{path} is truncated or no TFRecord file: record {len(offsets) - 1} at byte "
                    f"{offsets[-1]} does not end within its {size} bytes; copy or write it again"
                )
            offsets.append(end)
    return np.array(offsets, np.int64)


def _read_through(path: str) -> np.ndarray:
    lengths = tf.data.TFRecordDataset(path, buffer_size=8 << 20).map(tf.strings.length)
    sizes = [int(length) + RECORD_OVERHEAD for length in lengths]
    return np.cumsum([0, *sizes], dtype=np.int64)


class Piece(NamedTuple):
    """Consecutive records of a file."""

    path: str
    first: int = 0
    count: int | None = None  # None: to the end of the file.
    in_file: int | None = None  # Records in the whole file; known if `count` is.


class Blocks(NamedTuple):
    """A table of blocks in the fixed order of the records; each column is int64 [blocks]."""

    piece: np.ndarray  # Index of the block's piece.
    count: np.ndarray  # Number of records.
    offset: np.ndarray  # Byte at which reading the file starts.
    passed: np.ndarray  # Number of records to skip from there.
    bytes: np.ndarray  # Size in memory.


def make_blocks(pieces: Sequence[Piece], window_bytes: int) -> tuple[list[Piece], Blocks]:
    """Divides pieces into blocks.

    A piece is one block, unless all pieces together exceed `window_bytes`: then the local ones are
    divided into blocks of 1/64 of that size and at most 1024 records. Dividing pieces, or pieces of
    unknown length, requires a scan of the files.

    Returns: the pieces that have records, with all numbers filled in; and the blocks.
    Raises: UserError if a file is missing or truncated, or has a different number of records than
        expected.
    """
    pieces = [piece for piece in pieces if piece.count != 0]
    sizes = _file_sizes([piece.path for piece in pieces])
    estimates = [_estimate(piece, size) for piece, size in zip(pieces, sizes)]
    target = window_bytes // BLOCKS_PER_WINDOW if sum(estimates) > window_bytes else None
    scanned = [
        piece.count is None or (target is not None and estimate > target and is_local(piece.path))
        for piece, estimate in zip(pieces, estimates)
    ]
    paths = list(dict.fromkeys(piece.path for piece, scan in zip(pieces, scanned) if scan))
    offsets = dict(zip(paths, scan_files(paths)))
    complete, rows = [], []
    for piece, estimate, scan in zip(pieces, estimates, scanned):
        if scan:
            piece = checked_piece(piece, offsets[piece.path])
        if piece.count:
            index = len(complete)
            complete.append(piece)
            if scan:
                rows += _cut(index, piece, offsets[piece.path], target)
            else:
                memory = estimate + MEMORY_OVERHEAD * piece.count
                rows.append((index, piece.count, 0, piece.first, memory))
    columns = np.array(rows, np.int64).reshape([-1, len(Blocks._fields)]).T
    return complete, Blocks(*columns)


def checked_piece(piece: Piece, offsets: np.ndarray) -> Piece:
    """Returns a piece with all numbers filled in, from the offsets of its file's records.

    Raises: UserError if the file has a different number of records than expected.
    """
    found = len(offsets) - 1
    if piece.in_file not in (None, found):
        raise UserError(
            f"{piece.path} has {found} records instead of {piece.in_file}; write it again"
        )
    count = found - piece.first if piece.count is None else piece.count
    return piece._replace(count=count, in_file=found)


def _file_sizes(paths: Sequence[str]) -> list[int]:
    def size_of(path: str) -> int:
        try:
            return tf.io.gfile.stat(path).length
        except tf.errors.OpError as error:
            raise UserError(f"cannot read {path}: {one_line(str(error))}") from error

    if not paths:
        return []
    with ThreadPool(min(_READ_THREADS, len(paths))) as pool:
        return pool.map(size_of, paths)


def _estimate(piece: Piece, size: int) -> int:
    """Estimates the size of a piece in bytes."""
    return size if piece.count is None else size * piece.count // max(piece.in_file, 1)


def _cut(index: int, piece: Piece, offsets: np.ndarray, target: int | None) -> list[tuple]:
    """Returns the rows of a piece's blocks of about `target` bytes; None: one block."""
    starts = offsets[piece.first : piece.first + piece.count + 1]
    step = piece.count
    if target is not None:
        average = max(int(starts[-1] - starts[0]) // piece.count, 1)
        step = min(max(target // average, 1), _MOST_RECORDS)
    rows = []
    for first in range(0, piece.count, step):
        end = min(first + step, piece.count)
        data = int(starts[end] - starts[first]) - RECORD_OVERHEAD * (end - first)
        memory = data + MEMORY_OVERHEAD * (end - first)
        rows.append((index, end - first, int(starts[first]), 0, memory))
    return rows


class _Plan(NamedTuple):
    """The order of an epoch, as int64 tensors."""

    epoch: tf.Tensor
    order: tf.Tensor  # [blocks]: indices of blocks.
    ends: tf.Tensor  # [blocks]: positions of records at which these blocks end.
    bounds: tf.Tensor  # [windows + 1]: positions in `order`.
    positions: tf.Tensor  # [windows + 1]: positions of records.


class RecordFiles:
    """The records of a split; each is (serialized bytes, its number in the fixed order).

    The fixed order is that of the pieces. Unreadable records, from a broken one to the end of its
    block, are replaced with empty ones, so that numbers and positions do not change.

    Attributes:
        num_records: number of records.
        can_read_at: whether `record_at` can be used, that is, whether all files are local.
    """

    def __init__(self, pieces: Sequence[Piece], seed: int, *, memory_mb: int):
        """Indexes the records; see `make_blocks` for when this reads the files.

        Args:
            pieces: the files, or parts of them.
            seed: determines the order, together with the epoch.
            memory_mb: memory budget of a stream of shuffled records, in MiB.

        Raises: UserError as `make_blocks` does.
        """
        self._seed = seed
        half = memory_mb * 2**20 // 2
        self._pieces, blocks = make_blocks(pieces, half)
        self._blocks = Blocks(*(tf.constant(column, tf.int64) for column in blocks))
        self._paths = tf.constant([piece.path for piece in self._pieces], tf.string)
        self._firsts = tf.constant([piece.first for piece in self._pieces], tf.int64)
        self._piece_ends = tf.constant(np.cumsum([p.count for p in self._pieces]), tf.int64)
        self.num_records = int(blocks.count.sum())
        self.can_read_at = all(is_local(piece.path) for piece in self._pieces)
        self._offsets: np.ndarray | None = None
        if self.num_records:
            self._set_budget(blocks, half)

    def _set_budget(self, blocks: Blocks, half: int) -> None:
        total, largest = int(blocks.bytes.sum()), int(blocks.bytes.max())
        self._window_bytes = max(half - largest, 1)
        self._half_records = max(half * self.num_records // total, 1)
        # A block that does not fit is shuffled in parts.
        self._most_shuffled = self.num_records if largest <= half else self._half_records
        if total > half < largest * _FEW_BLOCKS:
            logging.warning(
                "shuffling mixes about %.1f of %d files at a time; raise data.memory_mb, or write "
                "more and smaller files",
                max(half / largest, 1),
                len(blocks.count),
            )

    def name_of(self, number: tf.Tensor) -> tf.Tensor:
        """Returns "FILE, record N" for the number of a record; N counts from 0 within the file."""
        piece = _interval(self._piece_ends, number)
        in_piece = number - tf.concat([[0], self._piece_ends], 0)[piece]
        within = tf.strings.as_string(in_piece + self._firsts[piece])
        return tf.strings.join([self._paths[piece], ", record ", within])

    def records(self, epoch: tf.Tensor | None = None, skip: int | tf.Tensor = 0) -> tf.data.Dataset:
        """Returns the records of an epoch from position `skip` on; None: in the fixed order."""
        skip = tf.cast(skip, tf.int64)
        if epoch is None:
            ends = tf.cumsum(self._blocks.count)
            first = _interval(ends, skip)
            blocks = tf.data.Dataset.range(first, tf.size(ends, tf.int64))
            dataset = blocks.flat_map(self._read_block)
            dataset = dataset.skip(skip - tf.concat([[0], ends], 0)[first])
        else:
            plan = self._plan(epoch)
            first = _interval(plan.positions[1:], skip)
            windows = tf.data.Dataset.range(first, tf.size(plan.bounds, tf.int64) - 1)
            dataset = windows.flat_map(lambda window: self._window(plan, window))
            # Buffers as much as a window: the next one is read while this one is used.
            dataset = dataset.skip(skip - plan.positions[first]).prefetch(self._half_records)
        return dataset.apply(tf.data.experimental.assert_cardinality(self.num_records - skip))

    def record_at(
        self, epoch: tf.Tensor | None, positions: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the records at positions of an epoch, int64 [n] -> (bytes [n], numbers [n]).

        The first call scans all files. Each call opens the files of its records and locates them in
        the epoch, which takes about a millisecond with 10,000 blocks, for any number of records.
        """
        offsets = tf.constant(self._all_offsets(), tf.int64)

        def read(number: tf.Tensor) -> tf.data.Dataset:
            path = self._paths[_interval(self._piece_ends, number)]
            one = tf.constant(1, tf.int64)
            return self._read(path, offsets[number], one * 0, one, number)

        numbers = tf.cast(positions, tf.int64)
        if epoch is not None:
            numbers = self._numbers_at(self._plan(epoch), numbers)
        records = tf.data.Dataset.from_tensor_slices(numbers).flat_map(read)
        return records.batch(tf.size(numbers, tf.int64)).get_single_element()

    def _all_offsets(self) -> np.ndarray:
        """Returns the byte offset of each record in its file, in the fixed order."""
        if self._offsets is None:
            paths = list(dict.fromkeys(piece.path for piece in self._pieces))
            found = dict(zip(paths, scan_files(paths)))
            parts = []
            for piece in self._pieces:
                checked_piece(piece, found[piece.path])
                parts.append(found[piece.path][piece.first : piece.first + piece.count])
            self._offsets = np.concatenate(parts)
        return self._offsets

    def _plan(self, epoch: tf.Tensor) -> _Plan:
        epoch = tf.cast(epoch, tf.int64)
        count = tf.size(self._blocks.count, tf.int64)
        key = tf.stack([tf.constant(self._seed, tf.int64), epoch])
        order = tf.random.experimental.index_shuffle(tf.range(count), key, count - 1)
        start_bytes = tf.cumsum(tf.gather(self._blocks.bytes, order), exclusive=True)
        windows = start_bytes // self._window_bytes
        is_first = tf.concat([[True], windows[1:] != windows[:-1]], 0)
        bounds = tf.concat([tf.where(is_first)[:, 0], [count]], 0)
        ends = tf.cumsum(tf.gather(self._blocks.count, order))
        return _Plan(epoch, order, ends, bounds, tf.gather(tf.concat([[0], ends], 0), bounds))

    def _window(self, plan: _Plan, window: tf.Tensor) -> tf.data.Dataset:
        """Returns the records of a window, shuffled."""
        blocks = plan.order[plan.bounds[window] : plan.bounds[window + 1]]
        records = tf.data.Dataset.from_tensor_slices(blocks).flat_map(self._read_block)

        def shuffled(part: tf.Tensor, serialized: tf.Tensor, numbers: tf.Tensor) -> tf.data.Dataset:
            count = tf.size(numbers, tf.int64)
            order = shuffled_index(tf.range(count), self._key(plan, window, part), count)
            order = tf.data.Dataset.from_tensor_slices(order).batch(_GATHERED)
            picked = order.map(lambda at: (tf.gather(serialized, at), tf.gather(numbers, at)))
            return picked.unbatch()

        parts = records.batch(self._most_shuffled).enumerate()
        return parts.flat_map(lambda part, records: shuffled(part, *records))

    def _numbers_at(self, plan: _Plan, positions: tf.Tensor) -> tf.Tensor:
        """Returns the numbers of the records at positions of an epoch, int64 [n]; see `_window`."""
        window = tf.searchsorted(plan.positions[1:], positions, side="right", out_type=tf.int64)
        start = tf.gather(plan.positions, window)
        part = (positions - start) // self._most_shuffled
        start += part * self._most_shuffled
        end = tf.minimum(start + self._most_shuffled, tf.gather(plan.positions, window + 1))
        places = start + shuffled_index(
            positions - start, self._key(plan, window, part), end - start
        )
        at = tf.searchsorted(plan.ends, places, side="right", out_type=tf.int64)
        before_end = tf.gather(plan.ends, at) - places
        return tf.gather(tf.cumsum(self._blocks.count), tf.gather(plan.order, at)) - before_end

    def _key(self, plan: _Plan, window: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
        """Returns the key of the permutation of a part of a window, int64 [..., 3]."""
        which = window * 2**12 + part
        first = tf.zeros_like(which)
        return tf.stack([first + self._seed, first + plan.epoch, which], axis=-1)

    def _numbers(self, block: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        end = tf.cumsum(self._blocks.count)[block]
        return end - self._blocks.count[block], end

    def _read_block(self, block: tf.Tensor) -> tf.data.Dataset:
        columns = Blocks(*(column[block] for column in self._blocks))
        first, _ = self._numbers(block)
        path = self._paths[columns.piece]
        return self._read(path, columns.offset, columns.passed, columns.count, first)

    def _read(self, path, offset, passed, count, first) -> tf.data.Dataset:
        """Reads `count` records of a file, the first of which has the number `first`."""
        raw = tf.raw_ops.TFRecordDatasetV2(
            filenames=path[None],
            compression_type="",
            buffer_size=_READ_BUFFER,
            byte_offsets=offset[None],
        )
        serialized = tf.data.experimental.from_variant(raw, tf.TensorSpec([], tf.string))
        numbers = tf.data.Dataset.range(first, first + count)
        # Zipped, so that each attempt uses up a number: reading a missing file fails forever.
        attempts = tf.data.Dataset.zip((numbers, serialized.skip(passed))).ignore_errors()
        empty = tf.data.Dataset.from_tensors("").repeat(count)
        serialized = attempts.map(lambda number, data: data).concatenate(empty).take(count)
        return tf.data.Dataset.zip((serialized, numbers))


def _interval(ends: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    """Returns the index of a position's interval, int64; `ends` are exclusive and increasing."""
    return tf.searchsorted(ends, position[None], side="right", out_type=tf.int64)[0]
