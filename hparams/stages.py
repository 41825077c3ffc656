"""The stages of progressive learning: a pure function of the config."""

import dataclasses
from collections.abc import Sequence

from hparams.config import Config
from hparams.errors import UserError


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a run at one image size and one strength of regularisation.

    Units: steps (end exclusive), pixels; `dropout_rate` is a probability of dropping.
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

    @property
    def steps(self) -> int:
        return self.end_step - self.first_step


def total_steps(config: Config) -> int:
    """Length of a run in steps.

    Raises: UserError if the number of training images is not known or gives no step.
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
    """Splits a run into `train.stages` parts of rising image size and regularisation.

    Raises: UserError if the run cannot be planned (see `total_steps`).
    Source: `paper`: Algorithm 1 and section 4.2, S0 + (Se - S0) * i / (M - 1), the integer part for
    the size; `official`: sizes of S0 + (Se - S0) * (i + 1) / M, constant dropout; `fixed`: the end
    values throughout. A single stage has the end values.
    """
    count, steps = config.train.stages, total_steps(config)
    images = config.data.splits.train.num_images
    bounds = [steps * i // count for i in range(count + 1)]
    stages = []
    for index, (first, end) in enumerate(zip(bounds, bounds[1:])):
        size, ram, mixup, dropout, cutmix = _strength(config, index)
        epochs = (end - first) * config.train.batch_size / images
        stages.append(
            Stage(
                index,
                first,
                end,
                epochs,
                size,
                config.train.batch_size,
                ram,
                mixup,
                dropout,
                cutmix,
            )
        )
    return tuple(stages)


def _strength(config: Config, index: int) -> tuple[int, float, float, float, float]:
    """Returns a stage's image size, magnitude, Mixup alpha, dropout rate and CutMix alpha."""
    data, model, count = config.data, config.model, config.train.stages
    last_size = config.train_size
    first_size = last_size // 2 if data.ibase is None else data.ibase
    ramp = (index, count - 1) if count > 1 else (1, 1)  # A fraction, so that ends are exact.
    size_ramp, dropout_base = ramp, model.dropout_base
    if config.train.schedule == "official":
        size_ramp, dropout_base = (index + 1, count), model.dropout_rate
    elif config.train.schedule == "fixed":
        ramp = size_ramp = (1, 1)
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

    A column for CutMix only if a stage has it.
    """
    rows = [
        ("stage", "epochs", "steps", "size", "batch", "magnitude", "mixup", "cutmix", "dropout")
    ]
    for s in stages:
        numbers = (s.index + 1, f"{s.epochs:.1f}", s.steps, s.image_size, s.batch_size)
        mixing = (f"{s.mixup_alpha:.3f}", f"{s.cutmix_alpha:.3f}")
        rows.append(tuple(map(str, (*numbers, f"{s.ram:.2f}", *mixing, f"{s.dropout_rate:.3f}"))))
    columns = list(zip(*rows))
    if not any(s.cutmix_alpha for s in stages):
        del columns[rows[0].index("cutmix")]
    aligned = ([cell.rjust(max(map(len, column))) for cell in column] for column in columns)
    return "\n".join("  ".join(row) for row in zip(*aligned))
