"""Layers of keras-cv that draw their random numbers from a seed instead of from hidden state.

keras-cv draws in three ways: from the `tf.random.Generator` of a layer, in samplers of its factors,
and by `tf.random` itself. `draw_from` puts the first two in the hands of a `KeyedDraws`; so are the
third of AugMix, the only layer whose draws also lie inside loops. What else a layer may draw stays
as it is, and `stateful_draws` finds it in a traced function.
"""

import contextlib
import io
import re

import keras
import tensorflow as tf

_STATEFUL = re.compile("Random|Multinomial|TruncatedNormal|Parameterized|Stateful(?!Partitioned)")


def import_keras_cv():
    """Imports keras-cv, which takes seconds, without the line that it prints on Keras 2."""
    with contextlib.redirect_stdout(io.StringIO()):
        import keras_cv
    return keras_cv


class KeyedDraws:
    """Random numbers that are a function of a seed and of which draw of a traced function it is.

    To be used while a function is traced: `tf.cond` traces both branches and a loop its body once,
    so the count of draws means the same on every call; run eagerly it would not.
    """

    def __init__(self):
        self._seed, self._count, self._loops = None, 0, ()

    @contextlib.contextmanager
    def seeded(self, seed: tf.Tensor):
        """Draws inside are functions of `seed`, int64 [2]."""
        self._seed, self._count = seed, 0
        try:
            yield
        finally:
            self._seed = None

    def in_loop(self, body, position: int):
        """Returns the body of a loop, whose draws then depend on its argument at `position` too."""

        def counted(*state):
            outer = self._loops
            self._loops = (*outer, tf.reshape(state[position], []))
            try:
                return body(*state)
            finally:
                self._loops = outer

        return counted

    def _next_seed(self) -> tf.Tensor:
        self._count += 1
        seed = self._seed
        for number in (self._count, *self._loops):
            seed = tf.random.experimental.stateless_fold_in(seed, number)
        return seed

    def uniform(self, shape, minval=0, maxval=None, dtype=tf.float32):
        """As `tf.random.Generator.uniform`."""
        return tf.random.stateless_uniform(shape, self._next_seed(), minval, maxval, dtype)

    def normal(self, shape, mean=0.0, stddev=1.0, dtype=tf.float32):
        """As `tf.random.Generator.normal`."""
        return tf.random.stateless_normal(shape, self._next_seed(), mean, stddev, dtype)

    random_normal = normal  # GridMask asks for it by a name that no generator has.

    def gamma(self, alpha):
        """Shapes: alpha float [...] -> the same."""
        return tf.random.stateless_gamma(tf.shape(alpha), self._next_seed(), alpha)

    def sampler(self, sampler):
        """Returns what draws as the `keras_cv.core.FactorSampler` does."""
        keras_cv = import_keras_cv()
        if isinstance(sampler, keras_cv.core.UniformFactorSampler):
            low, high = sampler.lower, sampler.upper
            return lambda shape=(), dtype="float32": self.uniform(shape, low, high, dtype)
        if isinstance(sampler, keras_cv.core.NormalFactorSampler):
            low, high = sampler.min_value, sampler.max_value
            moments = (sampler.mean, sampler.stddev)
            return lambda shape=(), dtype="float32": tf.clip_by_value(
                self.normal(shape, *moments, dtype), low, high
            )
        return sampler


def draw_from(layer: keras.layers.Layer, draws: KeyedDraws) -> None:
    """Makes a layer of keras-cv, and the layers inside it, draw from `draws`."""
    keras_cv = import_keras_cv()
    for name, value in list(vars(layer).items()):
        if isinstance(value, keras_cv.core.FactorSampler):
            setattr(layer, name, draws.sampler(value))
        for inner in value if isinstance(value, list | tuple) else [value]:
            if isinstance(inner, keras.layers.Layer):
                draw_from(inner, draws)
    layer._random_generator = draws
    if isinstance(layer, keras_cv.layers.Equalization):  # Has an `if` on a tensor.
        layer.equalize_channel = tf.function(layer.equalize_channel)
    if isinstance(layer, keras_cv.layers.AugMix):
        _draw_aug_mix_from(layer, draws)


def _draw_aug_mix_from(layer, draws: KeyedDraws) -> None:
    def dirichlet(alpha):
        gamma = draws.gamma(tf.cast(alpha, tf.float32))
        return gamma / tf.reduce_sum(gamma)

    layer._sample_from_dirichlet = dirichlet
    layer._sample_from_beta = lambda *alphas: dirichlet(alphas)[0]
    layer._loop_on_depth = draws.in_loop(layer._loop_on_depth, position=0)
    layer._loop_on_width = draws.in_loop(layer._loop_on_width, position=2)


def stateful_draws(function) -> list[str]:
    """Returns the random operations in a concrete function that no seed of ours reaches."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for one in graph.library.function for node in one.node_def)]
    return sorted({node.op for node in nodes if _STATEFUL.match(node.op)})
