"""The plan of a preparation, fixed before it starts, so that it can be resumed."""

import dataclasses
import hashlib
import itertools
import json
import os

import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import make_folder, write_text
from efficientnetv2.datasets.bad_examples import READING_ERRORS, clean_message
from efficientnetv2.datasets.sources.manifest import VERSION
from efficientnetv2.datasets.sources.registry import open_source
from efficientnetv2.datasets.sources.source import Source
from efficientnetv2.datasets.tools.shards import JPEG_QUALITY, PROGRESS_FOLDER, Converted, converted

SHARD_RECORDS = 1024
SHARD_BYTES = 128 * 2**20

_SOURCE_KEYS = (  # of `data.*`: those that determine the examples, and which of them are unreadable
    "ds_name",
    "data_dir",
    "tfds_name",
    "record_layout",
    "multiclass",
    "label_file",
    "splits",
    "eval_fraction",
    "max_pixels",
    "memory_mb",  # Some sources shuffle in parts of this size.
)
_HASHED_BYTES = 256 * 2**20  # of the records of a split, to recognize it
_BLOCK = 128  # records that are hashed at once
_SAMPLE = 64  # examples from which the size of a split's records is estimated
_SHOWN = 60  # characters of a value in a message


@dataclasses.dataclass(frozen=True)
class SplitPlan:
    """One split to be written: its source, the epoch whose order is used, and its shards."""

    split: str
    source: Source
    epoch: tf.Tensor | None
    num_shards: int

    def shard_name(self, index: int) -> str:
        """Returns the file name of a shard."""
        return f"{self.split}-{index:05d}-of-{self.num_shards:05d}.tfrecord"

    def start(self, index: int) -> int:
        """Returns the position of a shard's first example, which ends the previous shard."""
        return self.source.num_examples * index // self.num_shards


@dataclasses.dataclass(frozen=True)
class Plan:
    """A preparation: the contents of its manifest, and the splits to write.

    `same` maps each split that is not written to the one that has the same examples.
    """

    settings: dict
    layout: str
    class_names: tuple[str, ...]
    splits: tuple[SplitPlan, ...]
    same: dict[str, str]


def make_plan(data_config, folder: str, seed: int, short_side: int | None) -> Plan:
    """Opens the source's splits and plans their shards, or resumes the plan in `folder`.

    Training examples are in the shuffled order of epoch 0, so that each shard mixes the classes;
    the others are in the source's fixed order. A shard has at most `SHARD_RECORDS` examples, or
    fewer if these would exceed `SHARD_BYTES`, estimated from a sample of the split; the shards of a
    split differ by at most one example.

    Raises: UserError if the data cannot be used, or `folder` has other content.
    """
    # Balanced sampling repeats and drops examples; it is up to the reader of the records.
    data_config = dataclasses.replace(data_config, class_balance=None)
    sources = {s: open_source(data_config, s, seed) for s in _splits_of(data_config)}
    train = sources["train"]
    counts = [sources[s].num_examples for s in ("eval", "minival") if s in sources]
    alike = len(counts) == 2 and counts[0] == counts[1]
    sha256 = {
        s: _records_sha256(s, source, None if alike and s != "train" else _HASHED_BYTES)
        for s, source in sources.items()
    }
    same = {}
    if alike and sha256["minival"] == sha256["eval"]:
        same = {"minival": "eval"}
        del sources["minival"]
    contents = {
        "settings": _settings(data_config, seed, short_side),
        "layout": "imagenet21k" if train.multi_label else "imagenet",
        "class_names": list(train.class_names),
        "splits": {
            s: {"num_examples": source.num_examples, "records_sha256": sha256[s]}
            for s, source in sources.items()
        },
        "same": same,
    }
    path = tf.io.gfile.join(folder, PROGRESS_FOLDER, "plan.json")
    stored = _stored_plan(folder, path)
    epochs = {s: tf.constant(0, tf.int64) if s == "train" else None for s in sources}
    if stored is None:
        shards = {
            s: _num_shards(source, epochs[s], short_side, data_config.max_pixels)
            for s, source in sources.items()
        }
        make_folder(tf.io.gfile.join(folder, PROGRESS_FOLDER))
        text = json.dumps({"version": VERSION, **contents, "shards": shards}, indent=1)
        write_text(path, f"{text}\n")
    else:
        shards = stored.pop("shards")
        _check_same(folder, stored, {"version": VERSION, **contents})
    splits = tuple(SplitPlan(s, sources[s], epochs[s], shards[s]) for s in sources)
    return Plan(contents["settings"], contents["layout"], train.class_names, splits, same)


def _splits_of(data_config) -> tuple[str, ...]:
    """Returns the splits of a source: all, or for TFRecord files only those that are set."""
    splits = ("train", "eval", "minival")
    given = tuple(s for s in splits if getattr(data_config.splits, s).files)
    return given if data_config.ds_name == "tfrecord" and "train" in given else splits


def _settings(data_config, seed: int, short_side: int | None) -> dict:
    data = dataclasses.asdict(data_config)
    settings = {"data": {key: data[key] for key in _SOURCE_KEYS}}
    settings |= {"train": {"seed": seed}, "short_side": short_side}
    return settings if short_side is None else settings | {"jpeg_quality": JPEG_QUALITY}


def _records_sha256(split: str, source: Source, num_bytes: int | None) -> str:
    """Returns a checksum of about the first `num_bytes` of a split's records, in the fixed order.

    It shows whether the source has changed since the preparation began, and whether two splits have
    the same examples. The records of most sources are paths or numbers, small even by the million;
    others contain the images.
    """

    def as_bytes(*record):
        parts = tf.nest.flatten(record, expand_composites=True)
        return tf.strings.join([tf.io.serialize_tensor(part) for part in parts])

    records = source.records(None).map(as_bytes, num_parallel_calls=tf.data.AUTOTUNE)
    digest, hashed = hashlib.sha256(json.dumps(source.class_counts).encode()), 0
    try:
        for block in records.batch(_BLOCK).as_numpy_iterator():
            text = b"".join(block)
            digest.update(text)
            hashed += len(text)
            if num_bytes is not None and hashed >= num_bytes:
                break
    except READING_ERRORS as error:
        raise UserError(f"the records of {split} cannot be read: {clean_message(error)}") from error
    return digest.hexdigest()


def _num_shards(source: Source, epoch, short_side: int | None, max_pixels: int) -> int:
    count = source.num_examples
    sample = converted(
        source, epoch, 0, min(_SAMPLE, count), short_side=short_side, max_pixels=max_pixels
    )
    sizes = [len(example.image) for example in sample if isinstance(example, Converted)]
    mean = max(1, sum(sizes) // max(1, len(sizes)))
    return -(-count // min(SHARD_RECORDS, max(1, SHARD_BYTES // mean)))


def _stored_plan(folder: str, path: str) -> dict | None:
    """Returns the plan with which a preparation in this folder began; None if there is none.

    Raises: UserError if it cannot be read, or if the folder has other files.
    """
    try:
        with tf.io.gfile.GFile(path) as file:
            stored = json.loads(file.read())
    except tf.errors.NotFoundError as error:
        there = tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else []
        others = {name.rstrip("/") for name in there} - {PROGRESS_FOLDER}
        if others:
            raise UserError(
                f"{folder!r} has {min(others)}, which this did not write; use another --output_dir"
            ) from error
        return None
    except (ValueError, tf.errors.OpError) as error:
        raise UserError(f"{path} cannot be read; delete {folder!r} and prepare again") from error
    return stored


def _check_same(folder: str, stored: dict, now: dict) -> None:
    """Raises UserError naming the first difference."""
    before, after = dict(_flat(stored)), dict(_flat(json.loads(json.dumps(now))))
    for key in itertools.chain(after, before):
        was, is_now = before.get(key), after.get(key)
        if was != is_now:
            was, is_now = _differing_parts(was, is_now)
            raise UserError(
                f"{folder!r} was prepared with {key}={was}, now it is {is_now}; "
                "use another --output_dir, or delete this one"
            )


def _flat(values: dict, prefix: str = ""):
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _flat(value, "" if name == "settings" else f"{name}.")
        else:
            yield name, value


def _differing_parts(*values) -> list[str]:
    """Formats values for a message; long ones start shortly before the first difference."""
    texts = [json.dumps(value, ensure_ascii=False) for value in values]
    if max(map(len, texts)) <= _SHOWN:
        return texts
    start = max(0, len(os.path.commonprefix(texts)) - _SHOWN // 2)
    return [f"…{text[start:]}"[: _SHOWN + 1] for text in texts]
