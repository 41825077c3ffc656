"""Builders of TensorFlow Datasets with their data prepared."""

import contextlib
import difflib
import io
import json
import os
import sys

import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from datasets.record_scan import RECORD_OVERHEAD
from datasets.shapes_builder import Shapes
from hparams import UserError


def named_builder(name: str, data_dir: str | None):
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


def shapes_builder(name: str, data_dir: str | None):
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
            + RECORD_OVERHEAD * sum(int(count) for count in split["shardLengths"])
            for split in splits
        }
    except (tf.errors.OpError, ValueError, KeyError):
        return False
    return sizes == expected


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
