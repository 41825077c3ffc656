"""Two replicas on one CPU, and what a step moved."""

import tensorflow as tf


def two_replicas():
    # Collective operations would mix up those of one strategy with those of the next.
    reduction = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=reduction)


def moved(before, after):
    """Keys of the arrays that changed."""
    return {path for path in before if (before[path] != after[path]).any()}
