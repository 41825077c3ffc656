"""Stages of progressive learning, as a pure function of the config."""

import dataclasses
import hashlib
import math
from collections.abc import Sequence

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams.config import Config


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a run at one image size and one strength of regularization.

    Units: steps (end exclusive), pixels; `dropout_rate` is a probability of dropping. A stage of
    the schedule `random` has `variants`, also stages, of which each step draws one.
    """

    index: int
    first_step: int
    end_step: int
    epochs: float
    image_size: int
    batch_size: int
    ram: float
    mixup_alpha: float
    dropout_rate: float
    cutmix_alpha: float = 0.0
    first_record: int | None = None  # Images seen before; None: `batch_size` per step.
    draw: tuple[int, int, int] | None = None  # Of a variant: index, count, seed.
    variants: tuple["Stage", ...] = ()

    @property
    def steps(self) -> int:
        """The number of training steps."""
        return self.end_step - self.first_step

    def records_before(self, step: int) -> int:
        """Returns how many images the run has seen before a step of this stage, or its end."""
        if self.first_record is None:
            return step * self.batch_size
        return self.first_record + (step - self.first_step) * self.batch_size

    def has_step(self, step: int) -> bool:
        """Returns whether a step belongs to this stage and, if it is a variant, draws it."""
        inside = self.first_step <= step < self.end_step
        return inside and (self.draw is None or _drawn(step, *self.draw[1:]) == self.draw[0])

    def variant_at(self, step: int) -> "Stage":
        """Returns the variant that a step draws, or the stage itself if it has none."""
        if not self.variants:
            return self
        return self.variants[_drawn(step, *self.variants[0].draw[1:])]


def _drawn(step: int, count: int, seed: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count


def total_steps(config: Config) -> int:
    """Returns the length of a run in steps of `train.batch_size` images.

    Raises: UserError if the number of training images is unknown or gives fewer steps than stages.
    Source: official `max(min_steps, epochs * num_images // batch_size)`.
    """
    images = config.data.splits.train.num_images
    if images is None:
        raise UserError("data.splits.train.num_images must be set to plan a run, got null")
    steps = max(config.train.min_steps, config.train.epochs * images // config.train.batch_size)
    if steps < config.train.stages:
        raise UserError(
            f"{steps} steps are too few for train.stages={config.train.stages}: {images} images, "
            f"train.epochs={config.train.epochs}, train.batch_size={config.train.batch_size}; "
            "lower train.batch_size or raise train.epochs"
        )
    return steps


def make_stages(config: Config) -> tuple[Stage, ...]:
    """Splits a run into `train.stages` stages, with image sizes and strengths of regularization.

    Raises: UserError if the run cannot be planned (see `total_steps`).
    Source: `train.schedule`:
      `paper`: Algorithm 1 and section 4.2, S0 + (Se - S0) * i / (M - 1), truncated to an integer
        for the size; strengths rise in the same way. A single stage has the end values.
      `official`: sizes S0 + (Se - S0) * (i + 1) / M; strengths rise, dropout is constant.
      `resize`: the paper's sizes, constant strengths (Howard 2018; Table 13).
      `random`: each step draws one of the paper's sizes (Hoffer 2019; Table 13).
      `fixed`: the end size throughout, constant strengths.
    `train.adaptive_regularization=true` makes strengths rise with any schedule (with `random`: with
    the size that was drawn); false keeps them at their end values.
    `train.stage_batch=memory` increases the batch size at small image sizes, so that a step has
    about as many pixels as one of the last stage; the learning rate is scaled accordingly.
    """
    count, steps = config.train.stages, total_steps(config)
    if config.train.schedule == "random":
        rows = [_stage(config, i, 0, steps, 0) for i in range(count)]
        draws = [(i, count, config.train.seed) for i in range(count)]
        variants = (dataclasses.replace(r, index=0, draw=d) for r, d in zip(rows, draws))
        return (dataclasses.replace(rows[-1], index=0, variants=tuple(variants)),)
    stages, step, record = [], 0, 0
    for index in range(count):
        end_record = steps * (index + 1) // count * config.train.batch_size
        batch = _batch_size(config, index)
        end = step + max(1, round((end_record - record) / batch))
        stages.append(_stage(config, index, step, end, record))
        step, record = end, stages[-1].records_before(end)
    return tuple(stages)


def _stage(config: Config, index: int, first_step: int, end_step: int, first_record: int) -> Stage:
    size, ram, mixup, dropout, cutmix = _strength(config, index)
    batch = _batch_size(config, index)
    epochs = (end_step - first_step) * batch / config.data.splits.train.num_images
    return Stage(
        index,
        first_step,
        end_step,
        epochs,
        size,
        batch,
        ram,
        mixup,
        dropout,
        cutmix,
        first_record,
    )


def _batch_size(config: Config, index: int) -> int:
    """Returns a stage's batch size: a multiple of gcd(`train.batch_size`, 64)."""
    batch = config.train.batch_size
    if config.train.stage_batch == "same":
        return batch
    unit = math.gcd(batch, 64)
    return int(batch * (config.train_size / _strength(config, index)[0]) ** 2) // unit * unit


def _strength(config: Config, index: int) -> tuple[int, float, float, float, float]:
    """Returns a stage's image size, magnitude, Mixup alpha, dropout rate and CutMix alpha."""
    data, model, train = config.data, config.model, config.train
    last_size = config.train_size
    first_size = last_size // 2 if data.ibase is None else data.ibase
    end = (1, 1)  # Fractions, so that end values are exact.
    rising = (index, train.stages - 1) if train.stages > 1 else end
    size_ramp = rising
    if train.schedule == "official":
        size_ramp = (index + 1, train.stages)
    elif train.schedule == "fixed":
        size_ramp = end
    ramp = rising if config.adapts_regularization else end
    dropout_base = model.dropout_rate if train.schedule == "official" else model.dropout_base
    size = first_size + (last_size - first_size) * size_ramp[0] // size_ramp[1]
    return (
        size,
        _between(data.ram_base, data.ram, ramp) if data.augname else 0.0,
        _between(data.mixup_base, data.mixup_alpha, ramp),
        _between(dropout_base, model.dropout_rate, ramp),
        _between(data.cutmix_base, data.cutmix_alpha, ramp),
    )


def _between(first: float, last: float, ramp: tuple[int, int]) -> float:
    part, whole = ramp
    return last if part == whole else first + (last - first) * part / whole


def stage_at(stages: Sequence[Stage], step: int) -> Stage:
    """Returns the stage that contains `step`.

    Raises: ValueError if `step` is outside of the run.
    """
    for stage in stages:
        if stage.first_step <= step < stage.end_step:
            return stage
    raise ValueError(f"step must be in [0, {stages[-1].end_step}), got {step}")


def stage_table(stages: Sequence[Stage]) -> str:
    """Returns the stages as an aligned table, for `--dry_run` and the start of a run.

    CutMix has a column only if a stage uses it. Variants are rows, with a note below them.
    """
    rows = [
        ("stage", "epochs", "steps", "size", "batch", "magnitude", "mixup", "cutmix", "dropout")
    ]
    drawn = [variant for stage in stages for variant in stage.variants]
    for number, s in enumerate(drawn or stages, 1):
        share = len(drawn) or 1
        numbers = (number, f"{s.epochs / share:.1f}", s.steps // share, s.image_size, s.batch_size)
        mixing = (f"{s.mixup_alpha:.3f}", f"{s.cutmix_alpha:.3f}")
        rows.append(tuple(map(str, (*numbers, f"{s.ram:.2f}", *mixing, f"{s.dropout_rate:.3f}"))))
    columns = list(zip(*rows))
    if not any(s.cutmix_alpha for s in stages):
        del columns[rows[0].index("cutmix")]
    aligned = ([cell.rjust(max(map(len, column))) for cell in column] for column in columns)
    lines = ["  ".join(row) for row in zip(*aligned)]
    if drawn:
        lines.append(f"each of the {stages[0].steps} steps draws one of these rows")
    return "\n".join(lines)
