"""The learning rate as a pure function of the step."""

import math

from hparams import Config


def learning_rate_at(config: Config, step: int, total_steps: int) -> float:
    """Returns the learning rate of one step.

    Units: steps, from 0; the base rate is for a batch of 256 and grows with the batch.
    Source: official rule: the schedule counts from step 0, below the linear warm-up, which starts
    at exactly 0; `exponential` falls in stairs; the floor `lr_min` does not hold in the warm-up.
    """
    train = config.train
    scale = train.batch_size / 256
    base, floor = train.lr_base * scale, train.lr_min * scale
    steps_per_epoch = config.data.splits.train.num_images / train.batch_size
    warmup_steps = int(train.lr_warmup_epoch * steps_per_epoch)
    if step < warmup_steps:
        return base * step / warmup_steps
    done = step / total_steps
    if train.lr_sched == "exponential":
        rate = base * train.lr_decay_factor ** (step // (steps_per_epoch * train.lr_decay_epoch))
    elif train.lr_sched == "cosine":
        rate = base * 0.5 * (1 + math.cos(math.pi * done))
    elif train.lr_sched == "linear":
        rate = base * (1 - done)
    else:
        rate = base
    return max(rate, floor)
