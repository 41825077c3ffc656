"""TFRecord files in the layouts of the official code, and folders written by `--mode=prepare`.

`imagenet`: "image/encoded", and "image/class/label", counted from 1. `imagenet21k`: "image", and
"labels", any number of classes, counted from 0. Equal examples are encoded as equal bytes.
Source: official datasets.py.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf
from absl import logging

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.labels import class_names_of
from efficientnetv2.datasets.sources.records import Piece, RecordFiles
from efficientnetv2.datasets.sources.source import Source

BROKEN = "cannot be read: its checksum is wrong, or its file damaged or gone"
_MANIFEST = "manifest.json"
_Parsed = tuple[tf.Tensor, tf.Tensor, tf.Tensor, Callable[[], tf.Tensor]]


def encode_imagenet(
    image: bytes, label: int, class_name: str, filename: bytes, height: int, width: int
) -> bytes:
    """Encodes an example in the ImageNet layout; `label` counts from 0, in the record from 1."""
    return _serialized(
        {
            "image/encoded": _bytes(image),
            "image/class/label": _integers([label + 1]),
            "image/class/text": _bytes(class_name.encode()),
            "image/filename": _bytes(filename),
            "image/height": _integers([height]),
            "image/width": _integers([width]),
        }
    )


def encode_imagenet21k(image: bytes, labels: Sequence[int], filename: bytes) -> bytes:
    """Encodes an example in the ImageNet-21k layout: any number of labels, counted from 0."""
    return _serialized(
        {"id": _bytes(filename), "image": _bytes(image), "labels": _integers(labels)}
    )


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _integers(values: Sequence[int]) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def _serialized(features: dict[str, tf.train.Feature]) -> bytes:
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)  # Otherwise the feature order varies.


def open_tfrecord(data_config, split: str, seed: int) -> Source:
    """Opens one split of the TFRecord files in `data_config.data_dir`.

    If it contains a `manifest.json`, the folder was prepared: the manifest lists files, layout and
    classes, and the files must have the sizes in it. Otherwise the files are those that match
    `splits.SPLIT.files`, sorted, from which `splits.SPLIT.slice` selects; `record_layout` sets
    their layout, and `label_file` or `num_classes` the classes.

    `load` raises InvalidArgumentError naming file and record if a record is broken or not in this
    layout. With `on_error=skip`, a broken record has an empty image; a label outside the classes is
    still an error, since it means that the settings are wrong.

    Raises: UserError if the files or settings cannot be used.
    """
    root = data_config.data_dir
    if root is None:
        raise UserError("data_dir is needed for TFRecord files; pass --data_dir=PATH")
    if tf.io.gfile.exists(tf.io.gfile.join(root, _MANIFEST)):
        from efficientnetv2.datasets.sources.manifest import read_manifest

        manifest = read_manifest(root)
        manifest.verify_sizes(root, split)
        shards = manifest.splits[split].shards
        paths = manifest.paths(root, split)
        pieces = [Piece(path, 0, s.records, s.records) for path, s in zip(paths, shards)]
        layout, names = manifest.layout, class_names_of(data_config, manifest.class_names)
        counts = tuple(manifest.splits[split].class_counts)
    else:
        pieces = [Piece(path) for path in _find_files(data_config, split)]
        layout, names, counts = data_config.record_layout, class_names_of(data_config), None
    files = RecordFiles(pieces, seed, memory_mb=data_config.memory_mb)
    if not files.num_records:
        raise UserError(f"the files of {split} in {root!r} have no records; write them again")
    parse = {"imagenet": _parse_imagenet, "imagenet21k": _parse_imagenet21k}[layout]
    stop = data_config.on_error == "stop"

    def load(serialized: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        is_whole = tf.strings.length(serialized) > 0
        image_bytes, label, is_known, fault = parse(serialized, len(names))

        def message() -> tf.Tensor:
            return tf.strings.join(
                [files.name_of(number), " ", tf.where(is_whole, fault(), BROKEN)]
            )

        is_fine = is_whole & is_known if stop else is_known | ~is_whole
        return image_bytes, checked(label, is_fine, message)

    return record_source(
        files, names, load, multi_label=layout == "imagenet21k", class_counts=counts
    )


def record_source(files: RecordFiles, class_names, load: Callable, **more) -> Source:
    """Returns the source of record files whose records `load` reads."""
    return Source(
        num_examples=files.num_records,
        class_names=class_names,
        records=files.records,
        load=load,
        name_of=lambda serialized, number: files.name_of(number),
        record_at=files.record_at if files.can_read_at else None,
        **more,
    )


def checked(value: tf.Tensor, is_fine: tf.Tensor, message: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Returns `value` if fine, else raises InvalidArgumentError with `message()`, called lazily."""

    def fail() -> tf.Tensor:
        check = tf.debugging.Assert(False, [message()])
        with tf.control_dependencies([check]):
            return tf.identity(value)

    return tf.cond(is_fine, lambda: value, fail)


def _find_files(data_config, split: str) -> list[str]:
    """Returns the paths of a split, sorted.

    Raises: UserError if there are none, or no pattern is set.
    """
    split_config, key = getattr(data_config.splits, split), f"data.splits.{split}"
    if split_config.files is None:
        raise UserError(f"{key}.files is needed, such as {split}*; it names the TFRecord files")
    paths = _matching_files(data_config, split)
    if not paths:
        pattern = tf.io.gfile.join(data_config.data_dir, split_config.files)
        picked = f" with {key}.slice={split_config.slice}" if split_config.slice else ""
        raise UserError(f"no file matches {pattern!r}{picked}; set {key}.files or --data_dir")
    if split != "train" and data_config.splits.train.files is not None:
        shared = set(paths) & set(_matching_files(data_config, "train"))
        if shared:
            logging.warning("%s has files of train, such as %s", split, min(shared))
    return paths


def _matching_files(data_config, split: str) -> list[str]:
    split_config = getattr(data_config.splits, split)
    paths = sorted(tf.io.gfile.glob(tf.io.gfile.join(data_config.data_dir, split_config.files)))
    return paths[_read_slice(split_config.slice, f"data.splits.{split}")]


def _read_slice(text: str | None, key: str) -> slice:
    """Parses a slice such as "16:20"; None selects everything.

    Raises: UserError if it is not a valid slice.
    """
    parts = ":" if text is None else text
    try:
        ends = [int(part) if part.strip() else None for part in parts.split(":")]
    except ValueError:
        ends = []
    if not 2 <= len(ends) <= 3 or ends[2:] == [0]:
        raise UserError(f"{key}.slice must be like 20: or 0:16, got {text!r}")
    return slice(*ends)


def _parse_imagenet(serialized: tf.Tensor, classes: int) -> _Parsed:
    """Parses a record: (encoded image, label from 0, whether it is a class, the fault if not)."""
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string, ""),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64, -1),
    }
    example = tf.io.parse_single_example(serialized, features)
    label = example["image/class/label"]

    def fault() -> tf.Tensor:
        return _fault("image/class/label", tf.strings.as_string(label), f"1..{classes}")

    is_known = (label >= 1) & (label <= classes)
    return example["image/encoded"], tf.maximum(label - 1, 0), is_known, fault


def _parse_imagenet21k(serialized: tf.Tensor, classes: int) -> _Parsed:
    """Parses a record as `_parse_imagenet` does; the label is int64 [any number]."""
    features = {
        "image": tf.io.FixedLenFeature([], tf.string, ""),
        "labels": tf.io.VarLenFeature(tf.int64),
    }
    example = tf.io.parse_single_example(serialized, features)
    labels = example["labels"].values

    def fault() -> tf.Tensor:
        text = tf.strings.reduce_join(tf.strings.as_string(labels), separator=" ")
        return _fault("labels", text, f"0..{classes - 1}")

    are_known = tf.reduce_all((labels >= 0) & (labels < classes))
    return example["image"], labels, are_known, fault


def _fault(feature: str, found: tf.Tensor, bounds: str) -> tf.Tensor:
    hint = "are data.num_classes and data.record_layout right?"
    return tf.strings.join([f"has {feature} ", found, f", outside of {bounds}; {hint}"])
