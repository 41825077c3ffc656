"""Any TensorFlow data set by name, and the embedded one, as a `Source` of encoded images."""

import contextlib
import difflib
import io
import json
import os
import sys

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from datasets.shapes_builder import Shapes
from datasets.sources import Source
from hparams import UserError

SHUFFLE_BUFFER = 10_000  # records, encoded

_TFRECORD_OVERHEAD = 16  # bytes per record: length, and two checksums


def open_tfds(data_config, split: str, seed: int) -> Source:
    """Opens one split of `data_config.tfds_name`, or of the embedded shapes; prepares it if needed.

    `data_config.splits.SPLIT.tfds_split` is a TFDS split expression; where it is None,
    `default_splits` decides. `data_config.data_dir` is TFDS's own directory (None: its default).
    Each epoch is shuffled through a buffer of `SHUFFLE_BUFFER` encoded records.

    Raises: UserError if the name, the split or the features cannot be used, or if the data
        cannot be downloaded or prepared.
    """
    name = "shapes" if data_config.ds_name == "shapes" else data_config.tfds_name
    if not name:
        raise UserError("data.tfds_name is needed for ds_name=tfds; set it to a TFDS name")
    make = _shapes_builder if name == "shapes" else _named_builder
    builder = make(name, data_config.data_dir)
    features = builder.info.features
    _check_features(name, features)

    expression = _split_expression(data_config, split, builder)
    split_info = _split_info(builder, name, expression)
    if split != "train":
        train = _split_info(builder, name, _split_expression(data_config, "train", builder))
        if _overlap(train, split_info):
            logging.warning("%s: %s=%s has examples of train", name, split, expression)
    ordered = _ordered_records(builder, expression)
    _check_labelled(ordered, name, split, expression)
    count = split_info.num_examples

    def records(epoch: tf.Tensor | None = None) -> tf.data.Dataset:
        return ordered if epoch is None else _shuffle(ordered, count, seed, epoch)

    def load(image_bytes: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return image_bytes, label

    return Source(count, tuple(features["label"].names), records, load)


def default_splits(names) -> dict[str, str]:
    """The TFDS split expressions for a data set with the splits `names`.

    `eval` is "test" if there is one, else "validation"; `minival` the other way round. With
    neither, the last tenth of "train" is held out from it.
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
    """Raises: UserError if the expression is not one of this data set, or has no examples."""
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
    """Whether two splits of one data set share an example."""
    spans = [(f.filename, f.skip, f.skip + f.take) for f in first.file_instructions]
    return any(
        name == f.filename and start < f.skip + f.take and f.skip < end
        for f in second.file_instructions
        for name, start, end in spans
    )


def _check_features(name: str, features) -> None:
    """Raises: UserError if there is no uint8 "image" or no class "label"."""
    found = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = found.get("image"), found.get("label")
    usable = (
        isinstance(image, tfds.features.Image)
        and image.np_dtype == np.uint8
        and isinstance(label, tfds.features.ClassLabel)
        and label.names is not None
    )
    if not usable:
        raise UserError(
            f"{name} has the features {', '.join(found)}; choose a data set with an 8-bit "
            "'image' and a class 'label'"
        )


def _check_labelled(ordered: tf.data.Dataset, name: str, split: str, expression: str) -> None:
    """Raises: UserError if the split has no labels, which TFDS marks by -1."""
    for _, label in ordered.take(1):
        if label < 0:
            raise UserError(
                f"split {expression!r} of {name} has no labels; set data.splits.{split}.tfds_split"
            )


def _ordered_records(builder, expression: str) -> tf.data.Dataset:
    """(encoded image, label) in a fixed order."""
    dataset = builder.as_dataset(
        split=expression,
        shuffle_files=False,
        decoders={"image": tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(try_autocache=False, skip_prefetch=True),
    )
    return dataset.map(lambda example: (example["image"], tf.cast(example["label"], tf.int64)))


def _shuffle(dataset: tf.data.Dataset, count: int, seed: int, epoch: tf.Tensor) -> tf.data.Dataset:
    """Shuffles by (seed, epoch) alone.

    The raw op, because `Dataset.shuffle` also depends on `tf.random.set_seed`.
    """
    shuffled = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(dataset),
        buffer_size=min(count, SHUFFLE_BUFFER),
        seed=tf.constant(seed + 1, tf.int64),  # (0, 0) would mean: not reproducible
        seed2=tf.cast(epoch, tf.int64),
        output_types=[spec.dtype for spec in dataset.element_spec],
        output_shapes=[spec.shape for spec in dataset.element_spec],
        reshuffle_each_iteration=False,
    )
    shuffled = tf.data.experimental.from_variant(shuffled, dataset.element_spec)
    return shuffled.apply(tf.data.experimental.assert_cardinality(count))


def _named_builder(name: str, data_dir: str | None):
    """The builder of a TFDS name, prepared.

    Raises: UserError if there is no such builder, or it cannot be prepared.
    """
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        names = tfds.list_builders(with_community_datasets=False)
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
        raise UserError(f"TFDS has no data set {name!r}; did you mean {nearest!r}?") from error
    except (ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"TFDS cannot build {name!r}: {_one_line(error)}") from error
    folder = builder.data_dir
    if tf.io.gfile.exists(folder):
        if not tf.io.gfile.exists(os.path.join(folder, "dataset_info.json")):
            raise UserError(f"{folder!r} is not a complete TFDS data set; delete it and run again")
        return builder
    _prepare(builder)
    return tfds.builder(name, data_dir=data_dir)


def _shapes_builder(name: str, data_dir: str | None):
    """The builder of the embedded data set, rendered if it is missing or incomplete."""
    root = os.path.expanduser(data_dir or str(tfds.core.constants.DATA_DIR))
    folder = os.path.join(root, name, str(Shapes.VERSION))
    if tf.io.gfile.exists(folder) and not _is_intact(folder):
        logging.info("%s is incomplete and is prepared again", folder)
        tf.io.gfile.rmtree(folder)
    if not tf.io.gfile.exists(folder):
        images = sum(Shapes.split_sizes.values())
        print(f"Rendering {images} images of shapes into {folder}", file=sys.stderr, flush=True)
        tfds.display_progress_bar(False)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download
                _prepare(Shapes(data_dir=root))
        finally:
            tfds.display_progress_bar(True)
    return Shapes(data_dir=root)


def _prepare(builder) -> None:
    """Prepares a data set; another process may do the same at the same time.

    TFDS writes to a directory "incomplete.*" and renames it at the end. So a killed process leaves
    at most that one behind, and of two processes the slower one fails to rename, which is fine.

    Raises: UserError if the data cannot be downloaded, found or written.
    """
    folder = builder.data_dir
    try:
        builder.download_and_prepare()
    except (
        OSError,  # also the network's errors
        tf.errors.OpError,
        AssertionError,  # data that have to be downloaded by hand
        ImportError,  # libraries that only some data sets need
        tfds.download.DownloadError,
    ) as error:
        if not tf.io.gfile.exists(os.path.join(folder, "dataset_info.json")):
            raise UserError(f"{builder.name} cannot be prepared: {_one_line(error)}") from error


def _is_intact(folder: str) -> bool:
    """Whether all files of a prepared TFDS directory are there, by the sizes that TFDS noted."""
    try:
        with tf.io.gfile.GFile(os.path.join(folder, "dataset_info.json")) as file:
            splits = json.loads(file.read())["splits"]
        sizes = {split["name"]: 0 for split in splits}
        for path in tf.io.gfile.glob(os.path.join(folder, "*.tfrecord*")):
            split = os.path.basename(path).split(".")[0].rpartition("-")[2]
            sizes[split] += tf.io.gfile.stat(path).length
        expected = {
            split["name"]: int(split["numBytes"])
            + _TFRECORD_OVERHEAD * sum(int(count) for count in split["shardLengths"])
            for split in splits
        }
    except (tf.errors.OpError, ValueError, KeyError):
        return False
    return sizes == expected


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
