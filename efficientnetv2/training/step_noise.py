"""Dropout noise that is a function of (seed, step, layer, position in the global batch)."""

import zlib

import tensorflow as tf


class StepNoise:
    """A `NoiseSource` for one step of one replica.

    A replica draws the noise of the whole global batch and takes its rows, so N replicas drop what
    one replica would; masks are small beside activations.
    """

    def __init__(self, seed: int, step: tf.Tensor, first_row: tf.Tensor, global_batch: int):
        self.seed, self.step = seed, step
        self.first_row, self.global_batch = first_row, global_batch

    def drop(self, x, rate: float, name: str):
        """Zeroes parts of `x`, as `efficientnetv2.noise.NoiseSource` says."""
        per_row = [1] * (x.shape.rank - 1) if x.shape.rank == 4 else x.shape[1:].as_list()
        key = (self.seed << 32) + zlib.crc32(name.encode())
        seed = tf.stack([tf.constant(key, tf.int64), tf.cast(self.step, tf.int64)])
        noise = tf.random.stateless_uniform([self.global_batch, *per_row], seed)
        rows = tf.shape(x)[0]
        keep = noise[self.first_row : self.first_row + rows] >= rate
        return tf.where(keep, x / tf.cast(1 - rate, x.dtype), tf.zeros([], x.dtype))
