"""Dropout noise that is a function of (seed, step, layer, position in the global batch)."""

import zlib

import keras
import tensorflow as tf

from efficientnetv2.compat import all_layers
from efficientnetv2.noise import HeadDropout, StochasticDepth


class StepNoise:
    """A `NoiseSource` for one step of one replica, or one part of its examples.

    A replica draws the noise of the whole global batch and takes its rows, so N replicas drop what
    one replica would; masks are small beside activations. Noise is float32 with any precision, so
    rates are exact.
    """

    def __init__(self, seed: int, step: tf.Tensor, first_row: tf.Tensor, global_batch: int):
        self.seed, self.step = seed, step
        self.first_row, self.global_batch = first_row, global_batch

    def drop(self, x, rate: float, name: str):
        """Zeroes parts of `x`, as `efficientnetv2.noise.NoiseSource` says."""
        per_row = [1] * (x.shape.rank - 1) if x.shape.rank == 4 else x.shape[1:].as_list()
        return _dropped(x, rate, self._uniform(name, per_row, tf.shape(x)[0]))

    def drawn(self, model: keras.Model, rows: int) -> dict[str, tf.Tensor]:
        """The noise of all layers of `model` for `DrawnNoise`, float32 [rows, ...] by name."""
        shapes = {}
        for layer in all_layers(model):
            if isinstance(layer, StochasticDepth) and layer.rate:
                shapes[layer.name] = [1, 1, 1]
            elif isinstance(layer, HeadDropout) and layer.rate:
                shapes[layer.name] = list(layer.output.shape[1:])
        return {name: self._uniform(name, shape, rows) for name, shape in shapes.items()}

    def _uniform(self, name: str, per_row: list[int], rows):
        key = (self.seed << 32) + zlib.crc32(name.encode())
        seed = tf.stack([tf.constant(key, tf.int64), tf.cast(self.step, tf.int64)])
        noise = tf.random.stateless_uniform([self.global_batch, *per_row], seed)
        return noise[self.first_row : self.first_row + rows]


class DrawnNoise:
    """A `NoiseSource` of noise that was drawn before: XLA would draw other numbers."""

    def __init__(self, numbers: dict[str, tf.Tensor]):
        self.numbers = numbers

    def drop(self, x, rate: float, name: str):
        """Zeroes parts of `x`, as `efficientnetv2.noise.NoiseSource` says."""
        return _dropped(x, rate, self.numbers[name])


def _dropped(x, rate: float, noise):
    return tf.where(noise >= rate, x / tf.cast(1 - rate, x.dtype), tf.zeros([], x.dtype))
