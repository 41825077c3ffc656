"""Where dropout and stochastic depth take their noise from.

By default a layer draws from Keras' own generator. A trainer that wants its noise to be a function
of (seed, step) opens `noise_from(source)` around the forward pass. The network stays free of
TensorFlow: the source is handed in.
"""

import contextlib
import threading
from typing import Protocol

import keras

_local = threading.local()  # Replicas of a strategy are traced in threads of their own.


class NoiseSource(Protocol):
    """What `noise_from` takes."""

    def drop(self, x, rate: float, name: str):
        """Zeroes values of `x` with probability `rate` and scales the rest by 1 / (1 - rate).

        Shapes: [B, C]: each value by itself; [B, H, W, C]: whole examples.
        """


@contextlib.contextmanager
def noise_from(source: NoiseSource):
    """Layers called inside draw their noise from `source`."""
    outer = getattr(_local, "source", None)
    _local.source = source
    try:
        yield
    finally:
        _local.source = outer


class _SourcedDropout(keras.layers.Dropout):
    def call(self, inputs, training=None):
        source = getattr(_local, "source", None)
        if source is None or not training or not self.rate:
            return super().call(inputs, training=training)
        return source.drop(inputs, self.rate, self.name)


@keras.saving.register_keras_serializable("efficientnetv2")
class HeadDropout(_SourcedDropout):
    """Dropout of single values. `rate` is read when a training step is traced.

    Shapes: [B, C] -> same. Source: official head, after global pooling.
    """


@keras.saving.register_keras_serializable("efficientnetv2")
class StochasticDepth(_SourcedDropout):
    """Drops a whole residual branch, per example, and scales the kept ones by 1 / (1 - rate).

    Shapes: [B, H, W, C] -> same. Source: arXiv 1603.09382; official per-example mask.
    """

    def __init__(self, rate: float, **kwargs):
        super().__init__(rate, noise_shape=(None, 1, 1, 1), **kwargs)

    def get_config(self):
        config = super().get_config()
        config.pop("noise_shape", None)
        return config
