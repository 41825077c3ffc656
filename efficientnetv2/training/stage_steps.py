"""The batches and the train steps of one stage."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from efficientnetv2.training.traces import gradients_forgotten
from hparams import Stage


class Opened(NamedTuple):
    """What a stage, or a variant of one, is trained with."""

    batches: Iterator
    train_step: Callable


class StageSteps:
    """A train step and an iterator of a stage; of each variant its own, opened at its first draw.

    `open_variant(variant, step)` gives both, for the steps from `step` on.
    """

    def __init__(self, stage: Stage, open_variant: Callable[[Stage, int], Opened]):
        self.stage, self._open = stage, open_variant
        self._opened: dict[Stage, Opened] = {}
        self._made: set[Stage] = set()

    def is_new(self, step: int) -> bool:
        """Whether a step is the first of its variant here."""
        return self.stage.variant_at(step) not in self._opened

    def next_batch(self, step: int):
        """Returns (features, labels) of a step; call it for each, in order.

        Raises: RuntimeError if the data have ended.
        """
        variant = self.stage.variant_at(step)
        if self.is_new(step):
            self._opened[variant] = self._open(variant, step)
        batch = next(self._opened[variant].batches, None)
        if batch is None:
            raise RuntimeError(f"the data of stage {self.stage.index + 1} ended at step {step}")
        return batch

    def make(self, step: int, batch, learning_rate: float):
        """Makes a step; returns its `StepResult` and whether it had to be traced first."""
        variant = self.stage.variant_at(step)
        traced = variant not in self._made
        self._made.add(variant)
        with gradients_forgotten():
            return self._opened[variant].train_step(*batch, step, learning_rate), traced
