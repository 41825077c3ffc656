"""Manifest of a folder of prepared records: `manifest.json`, written last by `--mode=prepare`."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping

import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import write_text
from efficientnetv2.hparams.config import RECORD_LAYOUTS

FILE_NAME = "manifest.json"
VERSION = 1

_READ_BYTES = 2**22


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file: its name in the folder, records, size in bytes, and sha256 in hex."""

    file: str
    records: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class PreparedSplit:
    """The shards of one split, in order, and the number of examples of each class.

    Splits that have the same examples, as `minival` and `eval` often do, have the same shards. The
    counts of a multi-label split add up to the number of labels, not of examples.
    """

    num_examples: int
    class_counts: tuple[int, ...]
    shards: tuple[Shard, ...]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A prepared folder: `layout` is one of `RECORD_LAYOUTS`, `settings` how it was made."""

    layout: str
    class_names: tuple[str, ...]
    settings: Mapping[str, object]
    splits: Mapping[str, PreparedSplit]

    def paths(self, folder: str, split: str) -> list[str]:
        """Returns the paths of a split's shards, in order.

        Raises: UserError if the folder has no such split.
        """
        shards = self._split(folder, split).shards
        return [tf.io.gfile.join(folder, shard.file) for shard in shards]

    def verify_sizes(self, folder: str, split: str) -> None:
        """Checks that the shards of a split exist and have the right sizes, without reading them.

        Raises: UserError naming the first shard that is missing, too short or too long.
        """
        for shard in self._split(folder, split).shards:
            _raise_if(folder, shard, _wrong_size(folder, shard))

    def verify_checksums(
        self, folder: str, split: str, progress: Callable[[int], object] | None = None
    ) -> None:
        """Reads the shards of a split and compares their sizes and checksums.

        Args:
            folder: the folder of the manifest.
            split: "train", "minival" or "eval".
            progress: called with the number of bytes of each read, like `tqdm.update`.

        Raises: UserError naming the first shard that is missing or damaged.
        """
        for shard in self._split(folder, split).shards:
            _raise_if(folder, shard, shard_fault(folder, shard, progress))

    def faults(
        self, folder: str, split: str, progress: Callable[[int], object] | None = None
    ) -> Iterator[tuple[str, str]]:
        """Yields (path, reason) of every damaged shard, checked as in `verify_checksums`."""
        for shard in self._split(folder, split).shards:
            reason = shard_fault(folder, shard, progress)
            if reason:
                yield tf.io.gfile.join(folder, shard.file), reason

    def _split(self, folder: str, split: str) -> PreparedSplit:
        if split not in self.splits:
            raise UserError(f"{folder!r} has no split {split!r}; it has {', '.join(self.splits)}")
        return self.splits[split]


def read_manifest(folder: str) -> Manifest:
    """Reads `manifest.json` of a prepared folder.

    Raises: UserError if there is none (an unfinished preparation has none), or if it is damaged,
        inconsistent, or of a newer version.
    """
    path = tf.io.gfile.join(folder, FILE_NAME)
    try:
        with tf.io.gfile.GFile(path) as file:
            values = json.loads(file.read())
    except tf.errors.NotFoundError as error:
        raise UserError(
            f"{folder!r} has no {FILE_NAME}; is it prepared, and was --mode=prepare finished?"
        ) from error
    except (ValueError, tf.errors.OpError) as error:
        raise UserError(f"{path} cannot be read: {error}; prepare the data again") from error
    try:
        version = values["version"]
        if not isinstance(version, int) or version < 1:
            raise _Damage(f"its version is {version!r}")
        if version > VERSION:
            raise UserError(
                f"{path} has version {version}, this program reads up to {VERSION}; update it"
            )
        manifest = _from_json(values)
        _check(manifest)
    except (KeyError, TypeError, AttributeError, _Damage) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path} is damaged: {reason}; prepare the data again") from error
    return manifest


def write_manifest(folder: str, manifest: Manifest) -> None:
    """Writes `manifest.json` atomically.

    Raises: UserError if it cannot be written.
    """
    values = {"version": VERSION, **dataclasses.asdict(manifest)}
    text = json.dumps(values, indent=1, ensure_ascii=False)
    write_text(tf.io.gfile.join(folder, FILE_NAME), f"{text}\n")


def shard_fault(
    folder: str, shard: Shard, progress: Callable[[int], object] | None = None
) -> str | None:
    """Returns why a shard is damaged (missing, wrong size, wrong content), or None if it is not."""
    reason = _wrong_size(folder, shard)
    if reason:
        return reason
    try:
        digest = file_sha256(tf.io.gfile.join(folder, shard.file), progress)
    except tf.errors.OpError as error:
        return f"it cannot be read ({error.message})"
    return None if digest == shard.sha256 else "its content changed (sha256)"


def file_sha256(path: str, progress: Callable[[int], object] | None = None) -> str:
    """Returns a file's sha256 in hex; `progress` is called with the size of each read in bytes."""
    digest = hashlib.sha256()
    with tf.io.gfile.GFile(path, "rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
            if progress:
                progress(len(chunk))
    return digest.hexdigest()


class _Damage(Exception):
    """Raised if a manifest is damaged; the message is the reason."""


def _from_json(values: dict) -> Manifest:
    return Manifest(
        layout=values["layout"],
        class_names=tuple(values["class_names"]),
        settings=dict(values["settings"]),
        splits={
            name: PreparedSplit(
                split["num_examples"],
                tuple(split["class_counts"]),
                tuple(Shard(**shard) for shard in split["shards"]),
            )
            for name, split in values["splits"].items()
        },
    )


def _check(manifest: Manifest) -> None:
    """Raises _Damage if the parts are inconsistent."""
    if manifest.layout not in RECORD_LAYOUTS:
        raise _Damage(f"layout {manifest.layout!r} is unknown")
    for name, split in manifest.splits.items():
        if len(split.class_counts) != len(manifest.class_names):
            raise _Damage(f"{name} counts {len(split.class_counts)} classes")
        for shard in split.shards:
            if not shard.file or "/" in shard.file or "\\" in shard.file:
                raise _Damage(f"{name} has a shard {shard.file!r} outside of the folder")
            if len(shard.sha256) != 64 or min(shard.records, shard.bytes) < 0:
                raise _Damage(f"{name} has a wrong entry for {shard.file}")
        if sum(shard.records for shard in split.shards) != split.num_examples:
            raise _Damage(f"{name} has not the {split.num_examples} examples of its shards")


def _wrong_size(folder: str, shard: Shard) -> str | None:
    try:
        found = tf.io.gfile.stat(tf.io.gfile.join(folder, shard.file)).length
    except tf.errors.NotFoundError:
        return "it is missing"
    except tf.errors.OpError as error:
        return f"it cannot be read ({error.message})"
    return None if found == shard.bytes else f"it has {found} bytes instead of {shard.bytes}"


def _raise_if(folder: str, shard: Shard, reason: str | None) -> None:
    if reason:
        path = tf.io.gfile.join(folder, shard.file)
        raise UserError(
            f"{path} is damaged: {reason}; the command that prepared it writes it again"
        )
