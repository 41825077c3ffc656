"""Small pipelines: images in memory, a config, a stage, and the batches they give."""

import time

import numpy as np
import tensorflow as tf

from efficientnetv2.datasets import Source, build_dataset
from efficientnetv2.hparams import Stage, get_config

EXAMPLES, CLASSES, SIZE, BATCH = 11, 3, 20, 4
PLAIN = "data.augname=null"
# No value that decides about pixels is the default, so that one that is not passed on shows.
STRONG = (
    "data.augname=randaug,data.ra_num_layers=3,data.translate_const=4,data.cutout_const=9,"
    "data.crop_area_min=0.3,data.resize_method=legacy_bicubic,train.seed=77"
)


def make_config(overrides=PLAIN, data_dir="photos"):
    base = "eval.isize=24,train.batch_size=4,data.eval_crop=v2,data.resize_method=bilinear"
    return get_config("efficientnetv2-b0", "folder", f"{base},{overrides}", data_dir=data_dir)


def make_stage(first_step=0, end_step=9, size=SIZE, ram=8.0, mixup=0.0, cutmix=0.0):
    return Stage(0, first_step, end_step, 1.0, size, BATCH, ram, mixup, 0.1, cutmix)


def make_source(images, seed=0, load_delay=0.0):
    """In memory; the label of image i is i mod CLASSES. `load_delay`: the first take longer."""
    count = len(images)
    encoded = tf.constant([tf.io.encode_png(image).numpy() for image in images])

    def order(epoch):
        if epoch is None:
            return tf.range(count)
        key = tf.stack([tf.constant(seed, tf.int64), epoch])
        return tf.argsort(tf.random.stateless_uniform([count], key))

    def records(epoch=None, skip=0):
        dataset = tf.data.Dataset.from_tensor_slices((order(epoch),))
        return dataset.skip(tf.cast(skip, tf.int64))

    def load(index):
        if load_delay:

            def wait(index):
                time.sleep(load_delay * (count - int(index)) / count)
                return index

            index = tf.ensure_shape(tf.py_function(wait, [index], tf.int32), [])
        return encoded[index], tf.cast(index % CLASSES, tf.int64)

    return Source(
        count,
        tuple("abc"),
        records,
        load,
        name_of=lambda index: tf.strings.as_string(index),
        record_at=lambda epoch, positions: (tf.gather(order(epoch), positions),),
    )


def plain_images(count=EXAMPLES):
    """Image i is of the one colour (i, 2 i, 200), which no crop, flip or resize changes."""
    return [np.full([9, 12, 3], (i, 2 * i, 200), np.uint8) for i in range(count)]


def busy_images(count=EXAMPLES):
    rng = np.random.default_rng(3)
    return [
        tf.cast(tf.image.resize(rng.integers(0, 256, [5, 6, 3]), [26, 31]), tf.uint8)
        for _ in range(count)
    ]


def batches(dataset):
    return [(x["image"], y["label"]) for x, y in dataset.as_numpy_iterator()]


def indices(dataset):
    """Which plain image is at each position of the batches."""
    return np.concatenate([images[:, 0, 0, 0] for images, _ in batches(dataset)]).tolist()


def assert_same(some, others):
    assert len(some) == len(others)
    for (images, labels), (other_images, other_labels) in zip(some, others):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


def train(config, stage, source, **more):
    return build_dataset(config, "train", stage=stage, source=source, **more)
