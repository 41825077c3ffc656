"""A small model with all that a checkpoint holds of a run."""

import numpy as np
import tensorflow as tf
import tiny_run

from efficientnetv2 import ModelSpec, build_model
from efficientnetv2.network.compat import tf_variable, var_path
from efficientnetv2.training.checkpoint import RunCheckpoint
from efficientnetv2.training.ema import WeightAverage

SPEC = ModelSpec("smaller", tiny_run.SPEC.blocks[:1], head_channels=8)
DATA, INDEX, MANIFEST = "data-00000-of-00001", "index", "json"


class State:
    """A model, the state of an optimizer and an average, and the checkpoint over them."""

    def __init__(self, directory, classes=3, keep=5, averaged=True):
        self.model = build_model(SPEC, num_classes=classes)
        self.slots = {f"slot/{var_path(w)}": tf.Variable(w) for w in self.model.trainable_variables}
        self.average = WeightAverage(self.model, 0.9) if averaged else None
        self.checkpoint = RunCheckpoint(str(directory), self.model, self.slots, self.average, keep)

    def variables(self):
        averages = self.average.averages if self.average else []
        return [*map(tf_variable, self.model.weights), *self.slots.values(), *averages]

    def values(self):
        return [variable.numpy() for variable in self.variables()]

    def randomise(self, seed):
        rng = np.random.default_rng(seed)
        for variable in self.variables():
            variable.assign(tf.cast(rng.uniform(1, 9, variable.shape), variable.dtype))

    def check(self, values):
        for mine, theirs in zip(self.values(), values, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def save_two(directory):
    """Two checkpoints; the values of the first and of the second."""
    state, values = State(directory), []
    for step in (9, 17):
        state.randomise(step)
        state.checkpoint.save(step, {"of": step})
        values.append(state.values())
    return values


def names(directory):
    return {path.name for path in directory.glob("ckpt-*")}


def three(step):
    return {f"ckpt-{step}.{part}" for part in (DATA, INDEX, MANIFEST)}
