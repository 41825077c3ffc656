"""What a run ended with: its records, its weights and the state of its optimizer."""

import json

import numpy as np

from efficientnetv2.network.compat import tf_variable


def records(model_dir, kind=None):
    """The records of a run, but for their speed."""
    lines = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("images_per_second", None)
    return [line for line in lines if kind in (None, line["kind"])]


def state(trainer):
    """Weights, averages and optimizer state."""
    own = [tf_variable(weight) for weight in trainer.model.weights]
    own += trainer.optimization.variables.values()
    return [variable.numpy() for variable in (*own, *trainer.average.averages)]


def check_equal(trainer, other):
    for mine, theirs in zip(state(trainer), state(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)
