"""TensorFlow Datasets by name, and the embedded data set, as a `Source` of encoded images."""

import contextlib
import difflib
import io
import json
import os

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from efficientnetv2.common.console import show
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.text import one_line
from efficientnetv2.datasets.labels import class_names_of
from efficientnetv2.datasets.sources.records import RECORD_OVERHEAD, Piece, RecordFiles
from efficientnetv2.datasets.sources.shapes import Shapes
from efficientnetv2.datasets.sources.source import Source
from efficientnetv2.datasets.sources.tfrecord import BROKEN, checked, record_source


def named_builder(name: str, data_dir: str | None):
    """Returns the builder of a TFDS name, prepared.

    Raises: UserError if there is no such builder, or it cannot be prepared.
    """
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        names = tfds.list_builders(with_community_datasets=False)
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
        raise UserError(f"TFDS has no data set {name!r}; did you mean {nearest!r}?") from error
    except (ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"TFDS cannot build {name!r}: {one_line(str(error), 300)}") from error
    folder = builder.data_dir
    if tf.io.gfile.exists(folder):
        if not tf.io.gfile.exists(os.path.join(folder, "dataset_info.json")):
            raise UserError(f"{folder!r} is not a complete TFDS data set; delete it and run again")
        return builder
    _prepare(builder)
    return tfds.builder(name, data_dir=data_dir)


def shapes_builder(name: str, data_dir: str | None):
    """Returns the builder of the embedded data set; renders it if it is missing or incomplete."""
    root = os.path.expanduser(data_dir or str(tfds.core.constants.DATA_DIR))
    folder = os.path.join(root, name, str(Shapes.VERSION))
    if tf.io.gfile.exists(folder) and not _is_intact(folder):
        logging.info("%s is incomplete and is prepared again", folder)
        tf.io.gfile.rmtree(folder)
    if not tf.io.gfile.exists(folder):
        images = sum(Shapes.split_sizes.values())
        show(f"Rendering {images} images of shapes into {folder}", stderr=True)
        tfds.display_progress_bar(False)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download
                _prepare(Shapes(data_dir=root))
        finally:
            tfds.display_progress_bar(True)
    return Shapes(data_dir=root)


def _prepare(builder) -> None:
    """Prepares a data set; another process may do the same concurrently.

    TFDS writes to a directory "incomplete.*" and renames it at the end. A killed process therefore
    leaves at most that directory, and of two processes the slower one fails to rename its own,
    which is harmless.

    Raises: UserError if the data cannot be downloaded, found or written.
    """
    folder = builder.data_dir
    try:
        builder.download_and_prepare()
    except (
        OSError,  # including network errors
        tf.errors.OpError,
        AssertionError,  # data that must be downloaded manually
        ImportError,  # libraries that only some data sets need
        tfds.download.DownloadError,
    ) as error:
        if not tf.io.gfile.exists(os.path.join(folder, "dataset_info.json")):
            raise UserError(
                f"{builder.name} cannot be prepared: {one_line(str(error), 300)}"
            ) from error


def _is_intact(folder: str) -> bool:
    """Returns whether a prepared TFDS directory is complete, by the sizes that TFDS recorded."""
    try:
        with tf.io.gfile.GFile(os.path.join(folder, "dataset_info.json")) as file:
            splits = json.loads(file.read())["splits"]
        sizes = {split["name"]: 0 for split in splits}
        for path in tf.io.gfile.glob(os.path.join(folder, "*.tfrecord*")):
            split = os.path.basename(path).split(".")[0].rpartition("-")[2]
            sizes[split] += tf.io.gfile.stat(path).length
        expected = {
            split["name"]: int(split["numBytes"])
            + RECORD_OVERHEAD * sum(int(count) for count in split["shardLengths"])
            for split in splits
        }
    except (tf.errors.OpError, ValueError, KeyError):
        return False
    return sizes == expected


def open_tfds(data_config, split: str, seed: int) -> Source:
    """Opens one split of `data_config.tfds_name`, or of the embedded shapes; prepares it if needed.

    `data_config.splits.SPLIT.tfds_split` is a TFDS split expression; if it is None,
    `default_splits` applies. `data_config.data_dir` is TFDS's own directory (None: its default).
    Encoded images are returned as stored; raw pixels are encoded as PNG.

    Raises: UserError if the name, the split or the features cannot be used, or if the data
        cannot be downloaded or prepared.
    """
    name = "shapes" if data_config.ds_name == "shapes" else data_config.tfds_name
    if not name:
        raise UserError("data.tfds_name is needed for ds_name=tfds; set it to a TFDS name")
    make = shapes_builder if name == "shapes" else named_builder
    builder = make(name, data_config.data_dir)
    image, label = _find_features(name, builder.info.features)

    expression = _split_expression(data_config, split, builder)
    split_info = _split_info(builder, name, expression)
    if split != "train":
        train = _split_info(builder, name, _split_expression(data_config, "train", builder))
        if _overlap(train, split_info):
            logging.warning("%s: %s=%s has examples of train", name, split, expression)
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise UserError(
            f"{name} is prepared as {builder.info.file_format.value} files; prepare it as tfrecord"
        )
    pieces = [
        Piece(str(f.filename), f.skip, f.take, f.examples_in_shard)
        for f in split_info.file_instructions
    ]
    files = RecordFiles(pieces, seed, memory_mb=data_config.memory_mb)
    load = _make_load(files, image, label, data_config.on_error == "stop")
    _check_labelled(files.records().map(load), name, split, expression)
    return record_source(
        files,
        class_names_of(data_config, _class_feature(label[1]).names),
        load,
        multi_label=_class_feature(label[1]) is not label[1],
    )


def default_splits(names) -> dict[str, str]:
    """Returns the TFDS split expressions for a data set with the splits `names`.

    `eval` is "test" if there is one, else "validation"; `minival` the other way around. With
    neither, the last tenth of "train" is held out.
    """
    if "test" not in names and "validation" not in names:
        return {"train": "train[:90%]", "minival": "train[90%:]", "eval": "train[90%:]"}
    return {
        "train": "train",
        "minival": "validation" if "validation" in names else "test",
        "eval": "test" if "test" in names else "validation",
    }


def _split_expression(data_config, split: str, builder) -> str:
    chosen = getattr(data_config.splits, split).tfds_split
    return chosen or default_splits(builder.info.splits)[split]


def _split_info(builder, name: str, expression: str):
    """Returns the info of a split expression.

    Raises: UserError if the expression is not valid for this data set, or has no examples.
    """
    try:
        split_info = builder.info.splits[expression]
        count = split_info.num_examples
    except (KeyError, ValueError) as error:
        splits = ", ".join(builder.info.splits)
        raise UserError(f"{name} has no split {expression!r}; its splits: {splits}") from error
    if count < 1:
        raise UserError(f"split {expression!r} of {name} has no examples; widen it")
    return split_info


def _overlap(first, second) -> bool:
    """Returns whether two splits of one data set share an example."""
    spans = [(f.filename, f.skip, f.skip + f.take) for f in first.file_instructions]
    return any(
        name == f.filename and start < f.skip + f.take and f.skip < end
        for f in second.file_instructions
        for name, start, end in spans
    )


def _find_features(name: str, features) -> tuple[tuple, tuple]:
    """Returns the feature of the image, and (name, feature) of the label or labels.

    Raises: UserError if there is no uint8 "image", or no class "label" or sequence of them.
    """
    found = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    image = found.get("image")
    label = next((key for key in ("label", "labels") if key in found), None)
    usable = (
        isinstance(image, tfds.features.Image | tfds.features.Tensor)
        and image.np_dtype == np.uint8
        and len(image.shape) == 3
        and label is not None
        and isinstance(_class_feature(found[label]), tfds.features.ClassLabel)
        and _class_feature(found[label]).names is not None
    )
    if not usable:
        raise UserError(
            f"{name} has the features {', '.join(found)}; choose a data set with an 8-bit "
            "'image' and a class 'label', or 'labels' that are a sequence of classes"
        )
    return image, (label, found[label])


def _class_feature(feature):
    """Returns the feature of one class, given that of a label or of a sequence of labels."""
    return feature.feature if isinstance(feature, tfds.features.Sequence) else feature


def _make_load(files: RecordFiles, image, label: tuple, stop: bool):
    """Returns the `load` of a source; images that are stored as pixels are encoded as PNG."""
    key, label_feature = label
    features = tfds.features.FeaturesDict({"image": image, key: label_feature})
    is_encoded = isinstance(image, tfds.features.Image)
    decoders = {"image": tfds.decode.SkipDecoding()} if is_encoded else None
    is_multi_label = _class_feature(label_feature) is not label_feature

    def read(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = features.deserialize_example(serialized, decoders=decoders)
        found = example["image"]
        image_bytes = found if is_encoded else tf.io.encode_png(found, compression=1)
        return image_bytes, tf.cast(example[key], tf.int64)

    def load(serialized: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        is_whole = tf.strings.length(serialized) > 0
        if stop:
            return read(
                checked(
                    serialized,
                    is_whole,
                    lambda: tf.strings.join([files.name_of(number), " " + BROKEN]),
                )
            )
        no_label = tf.zeros([0] if is_multi_label else [], tf.int64)
        return tf.cond(is_whole, lambda: read(serialized), lambda: (tf.constant(""), no_label))

    return load


def _check_labelled(examples: tf.data.Dataset, name: str, split: str, expression: str) -> None:
    """Raises UserError if the split has no labels, which TFDS marks with -1."""
    for _, label in examples.take(1):
        if tf.reduce_any(label < 0):
            raise UserError(
                f"split {expression!r} of {name} has no labels; set data.splits.{split}.tfds_split"
            )
