"""TFRecord files as a table of blocks: runs of records that are read from an offset on."""

from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from datasets.record_scan import RECORD_OVERHEAD, is_local, scan_files
from hparams import UserError

BLOCKS_PER_WINDOW = 64  # so many places of the data are mixed, where blocks can be cut
MEMORY_OVERHEAD = 256  # bytes of a record in a buffer beside its data
_MOST_RECORDS = 1024  # in a block that is cut
_THREADS = 32  # mostly waiting for a remote file system


class Piece(NamedTuple):
    """Consecutive records of a file."""

    path: str
    first: int = 0
    count: int | None = None  # None: to the end, wherever that is.
    in_file: int | None = None  # Records in the whole file, known where `count` is.


class Blocks(NamedTuple):
    """A table of blocks in the fixed order of the records, int64 [blocks] each."""

    piece: np.ndarray  # Index of the piece it is of.
    count: np.ndarray  # Records.
    offset: np.ndarray  # Bytes; where reading the file starts.
    passed: np.ndarray  # Records to pass over from there.
    bytes: np.ndarray  # In memory.


def make_blocks(pieces: Sequence[Piece], window_bytes: int) -> tuple[list[Piece], Blocks]:
    """Cuts pieces into blocks.

    A piece is one block, unless all together are more than `window_bytes`: then the local ones are
    cut into blocks of a 64th of that, and of at most 1024 records. This, and pieces of unknown
    length, takes a scan of the files.

    Returns: the pieces that have records, with all their numbers known; and the blocks.
    Raises: UserError if a file is missing or truncated, or has another number of records than was
        known.
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
    """A piece with all its numbers, from the offsets of its file's records.

    Raises: UserError if the file has another number of records than was known.
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
            raise UserError(f"cannot read {path}: {' '.join(str(error).split())[:200]}") from error

    if not paths:
        return []
    with ThreadPool(min(_THREADS, len(paths))) as pool:
        return pool.map(size_of, paths)


def _estimate(piece: Piece, size: int) -> int:
    """Bytes of a piece."""
    return size if piece.count is None else size * piece.count // max(piece.in_file, 1)


def _cut(index: int, piece: Piece, offsets: np.ndarray, target: int | None) -> list[tuple]:
    """Rows of a piece's blocks, of about `target` bytes; None: one block."""
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
