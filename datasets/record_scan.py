"""Where the records of TFRecord files begin, found without reading the data.

A TFRecord file is a row of (length, 8 bytes; checksum, 4; data; checksum, 4).
"""

import os
import time
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool

import numpy as np
import tensorflow as tf
from absl import logging

from hparams import UserError

RECORD_OVERHEAD = 16  # bytes of a record that are not data
_THREADS = 16  # mostly waiting for the disk
_SLOW = 5.0  # seconds after which a scan is worth a line in the log


def is_local(path: str) -> bool:
    """Whether a file can be read at any place at no cost."""
    return "://" not in path


def record_offsets(path: str) -> np.ndarray:
    """Byte offsets of a file's records, and of the file's end: int64 [records + 1].

    Of a local file only the lengths are read; a remote one is read whole, checksums included.

    Raises: UserError if the file cannot be read, or its records do not end where it ends.
    """
    try:
        return _walk(path) if is_local(path) else _read_through(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except tf.errors.OpError as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())[:200]}") from error


def scan_files(paths: Sequence[str]) -> list[np.ndarray]:
    """`record_offsets` of several files, in parallel."""
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
    with ThreadPool(min(_THREADS, len(paths))) as pool:
        offsets = pool.map(record_offsets, paths, chunksize=1)
    taken = time.monotonic() - started
    if taken > _SLOW:
        records = sum(len(each) - 1 for each in offsets)
        logging.info("counted %d records in %d files in %.0f s", records, len(paths), taken)
    return offsets


def _walk(path: str) -> np.ndarray:
    offsets = [0]
    # Not by tf.io.gfile, which fills a buffer of half a megabyte after each seek.
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
