"""One example as the bytes of a TFRecord, in the layouts of the official code.

Source: official_semantics.md section 7.3. Equal examples give equal bytes.
"""

from collections.abc import Sequence

import tensorflow as tf


def encode_imagenet(
    image: bytes, label: int, class_name: str, filename: bytes, height: int, width: int
) -> bytes:
    """The ImageNet layout; `label` counts from 0 here, and from 1 in the record."""
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
    """The ImageNet-21k layout: any number of labels, which count from 0."""
    return _serialized(
        {"id": _bytes(filename), "image": _bytes(image), "labels": _integers(labels)}
    )


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _integers(values: Sequence[int]) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def _serialized(features: dict[str, tf.train.Feature]) -> bytes:
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)  # Else the order of the features varies.
