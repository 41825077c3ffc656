"""Records in the official layouts."""

import tensorflow as tf

from efficientnetv2.datasets.sources.tfrecord import encode_imagenet, encode_imagenet21k


def test_the_imagenet_layout_is_read_as_the_official_code_reads_it():
    record = encode_imagenet(b"image", 0, "Süßes", b"a/b.jpg", 30, 20)
    features = {
        "image/encoded": tf.io.FixedLenFeature((), tf.string, ""),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64, -1),
        "image/class/text": tf.io.FixedLenFeature([], tf.string, ""),
        "image/filename": tf.io.FixedLenFeature([], tf.string),
        "image/height": tf.io.FixedLenFeature([], tf.int64),
        "image/width": tf.io.FixedLenFeature([], tf.int64),
    }
    parsed = tf.io.parse_single_example(record, features)
    assert list(parsed) == sorted(features)
    assert parsed["image/encoded"] == b"image"
    assert parsed["image/class/label"] == 1
    assert parsed["image/class/text"] == "Süßes".encode()
    assert parsed["image/filename"] == b"a/b.jpg"
    assert (parsed["image/height"], parsed["image/width"]) == (30, 20)
    # The order of a map is free; here it is that of the keys, so that bytes can be compared.
    places = [record.index(name.encode()) for name in sorted(features)]
    assert places == sorted(places)


def test_the_imagenet21k_layout_is_read_as_the_official_code_reads_it():
    features = {
        "id": tf.io.FixedLenFeature([], tf.string),
        "image": tf.io.FixedLenFeature([], tf.string),
        "labels": tf.io.VarLenFeature(tf.int64),
    }
    for labels in ([], [3], [0, 21842]):
        parsed = tf.io.parse_single_example(encode_imagenet21k(b"image", labels, b"n"), features)
        assert tf.sparse.to_dense(parsed["labels"]).numpy().tolist() == labels
        assert (parsed["id"], parsed["image"]) == (b"n", b"image")
