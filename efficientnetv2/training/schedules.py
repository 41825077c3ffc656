"""The learning rate as a pure function of the step."""

import math
from collections.abc import Sequence

from hparams import Config, Stage, stage_at


def learning_rate_at(config: Config, stages: Sequence[Stage], step: int) -> float:
    """Returns the learning rate of one step.

    Units: steps, from 0; the base rate is for a batch of 256 and grows with the stage's batch.
    Where stages have batches of their own, the schedule counts steps of `train.batch_size` images.
    Source: official rule: the schedule counts from step 0, below the linear warm-up, which starts
    at exactly 0; `exponential` falls in stairs; the floor `lr_min` does not hold in the warm-up.
    """
    train, stage, last = config.train, stage_at(stages, step), stages[-1]
    scale = stage.batch_size / 256
    base, floor = train.lr_base * scale, train.lr_min * scale
    steps_per_epoch = config.data.splits.train.num_images / train.batch_size
    warmup_steps = int(train.lr_warmup_epoch * steps_per_epoch)
    passed = stage.records_before(step) / train.batch_size
    if passed < warmup_steps:
        return base * passed / warmup_steps
    done = passed / (last.records_before(last.end_step) / train.batch_size)
    if train.lr_sched == "exponential":
        rate = base * train.lr_decay_factor ** (passed // (steps_per_epoch * train.lr_decay_epoch))
    elif train.lr_sched == "cosine":
        rate = base * 0.5 * (1 + math.cos(math.pi * done))
    elif train.lr_sched == "linear":
        rate = base * (1 - done)
    else:
        rate = base
    return max(rate, floor)
