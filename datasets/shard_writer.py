"""One shard of prepared records, and the note that says it is complete."""

import collections
import dataclasses
import json
from collections.abc import Callable, Iterable

import tensorflow as tf

from datasets.atomic import replacing, write_text
from datasets.manifest import Shard, file_sha256, shard_fault
from hparams import UserError

PROGRESS_FOLDER = "progress"

_RECORD_OVERHEAD = 16  # bytes: length, and two checksums


@dataclasses.dataclass(frozen=True)
class FinishedShard:
    """A written shard, how many of its examples have each label, and the names of those left out.

    `label_counts` has no entry for a label that no example has.
    """

    shard: Shard
    label_counts: dict[int, int]
    left_out: tuple[str, ...]


def write_shard(
    folder: str, name: str, examples: Iterable[tuple[bytes, tuple[int, ...]] | str]
) -> FinishedShard:
    """Writes one TFRecord file and, when it is whole, its note in `PROGRESS_FOLDER`.

    Args:
        folder: where to; it has a folder `PROGRESS_FOLDER`.
        name: the file's name.
        examples: (record, labels) of each, or the name of one that is left out.

    Raises: UserError naming the file if it cannot be written.
    """
    path = tf.io.gfile.join(folder, name)
    labels, left_out, records, expected = collections.Counter(), [], 0, 0
    with replacing(path) as part:
        with tf.io.TFRecordWriter(part) as writer:
            for example in examples:
                if isinstance(example, str):
                    left_out.append(example)
                    continue
                record, its_labels = example
                writer.write(record)
                labels.update(its_labels)
                records += 1
                expected += len(record) + _RECORD_OVERHEAD
        found = tf.io.gfile.stat(part).length
        if found != expected:
            raise UserError(
                f"cannot write {path}: only {found} of {expected} bytes arrived; is the disk full?"
            )
        digest = file_sha256(part)
    shard = Shard(name, records, expected, digest)
    finished = FinishedShard(shard, dict(sorted(labels.items())), tuple(left_out))
    write_text(_note_path(folder, name), json.dumps(dataclasses.asdict(finished)))
    return finished


def read_finished(
    folder: str, name: str, progress: Callable[[int], object] | None = None
) -> FinishedShard | None:
    """The shard as its note describes it, if the file still is that; None if it is to be written.

    `progress` is called with the numbers of bytes that are read.
    """
    try:
        with tf.io.gfile.GFile(_note_path(folder, name)) as file:
            values = json.loads(file.read())
        shard = Shard(**values["shard"])
        labels = {int(label): count for label, count in values["label_counts"].items()}
        finished = FinishedShard(shard, labels, tuple(values["left_out"]))
    except (tf.errors.NotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None  # No note, or one that a failing disk damaged: both are mended by writing.
    if shard.file != name or shard_fault(folder, shard, progress):
        return None
    return finished


def _note_path(folder: str, name: str) -> str:
    return tf.io.gfile.join(folder, PROGRESS_FOLDER, f"{name}.json")
