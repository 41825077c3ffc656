"""Reads prepared folders for tests, without the code that training reads them with."""

import dataclasses

import tensorflow as tf

from efficientnetv2 import hparams
from efficientnetv2.datasets.sources.manifest import read_manifest


def config(root, **values):
    data = hparams.get_config("efficientnetv2-b0", "folder", "", data_dir=str(root)).data
    return dataclasses.replace(data, **values)


def examples(folder, split):
    """The features of all examples of a split, in order."""
    paths = read_manifest(str(folder)).paths(str(folder), split)
    found = []
    for record in tf.data.TFRecordDataset(paths).as_numpy_iterator():
        features = tf.train.Example.FromString(record).features.feature
        found.append({name: _values(feature) for name, feature in features.items()})
    return found


def _values(feature):
    kind = feature.WhichOneof("kind")
    return list(getattr(feature, kind).value) if kind else []


def contents(folder):
    """Relative path -> bytes of every file of a prepared folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def names(folder, split):
    return [e["image/filename"][0].decode() for e in examples(folder, split)]
