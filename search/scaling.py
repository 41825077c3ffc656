"""Larger networks from one that was found, by one coefficient.

Source: paper section 3.3, "scaling": compound scaling as in arXiv 1905.11946, layers added
gradually to later stages, and images of at most 480 pixels. The paper gives no constants; ours are
chosen so that from S, φ = 1 has about the parameters and multiply-adds of M, and φ = 2 those of L.
"""

import dataclasses
import math
from collections.abc import Callable

from hparams import UserError
from hparams.architectures import ModelSpec, scale_spec
from hparams.spec_files import check_spec
from search.cost_model import DEFAULT, Coefficients, predicted_step
from search.counts import Counts, count

WIDTH = 1.14  # Times the channels, for each unit of φ.
LATE_LAYERS = 1.9  # Times the layers of the last row; those of the first stay, between it is even.
SIZE = 1.25  # Times the pixels of a side.
MOST_PIXELS = 480
_SIZE_STEP = 8  # Pixels, to which grown sizes are rounded.
_PHI_STEP = 0.5  # In which a target is approached before it is halved in.
_HALVINGS = 60
_NEAR = 0.05  # A step time that is so near to its target, as a fraction, is met.
_MOST_MEASUREMENTS = 6


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A network and the sizes that it is meant for, in pixels."""

    spec: ModelSpec
    eval_size: int
    train_size: int  # In the last stage of training.
    phi: float = 0.0

    @property
    def counts(self) -> Counts:
        """Of the network at `eval_size`, for 1000 classes."""
        return count(self.spec, self.eval_size)


def grow(source: Scaled, phi: float, name: str) -> Scaled:
    """Returns the network called `name` that is `phi` units larger, 0 for the same.

    Sizes stop growing where evaluation reaches 480 pixels; the ratio of training to evaluation is
    kept.
    Raises: UserError if it is too large to be built.
    """
    spec = scale_spec(source.spec, name, width=WIDTH**phi, late_depth=LATE_LAYERS**phi)
    check_spec(spec, f"{source.spec.name} grown by {phi:.2f}")
    factor = min(SIZE**phi, max(1.0, MOST_PIXELS / source.eval_size))
    sizes = [
        size if factor == 1 else round(size * factor / _SIZE_STEP) * _SIZE_STEP
        for size in (source.eval_size, source.train_size)
    ]
    return Scaled(spec, *sizes, phi)


def to_parameters(source: Scaled, parameters: float, name: str | None = None) -> Scaled:
    """Returns the larger network whose trained parameters, for 1000 classes, come nearest.

    Without a `name` it is called after the source and its parameters, "efficientnetv2-s-53.7m".
    Raises: UserError if the target is below the source, or above what can be built.
    """
    have = source.counts.trainable_params
    if not have <= parameters < math.inf:
        raise UserError(
            f"scaling only grows: parameters must be a number from {have / 1e6:.2f} million, "
            f"those of {source.spec.name}, got {parameters:g}"
        )

    def parameters_at(phi: float) -> int:
        return grow(source, phi, source.spec.name).counts.trainable_params

    ends = _bracket(parameters_at, parameters)
    near = min(ends, key=lambda phi: abs(parameters_at(phi) - parameters))
    name = name or f"{source.spec.name}-{_digits(parameters_at(near) / 1e6)}m"
    return grow(source, near, name)


def to_step_seconds(
    source: Scaled,
    seconds: float,
    step_seconds: Callable[[ModelSpec, int], float],
    batch_size: int,
    name: str | None = None,
    *,
    coefficients: Coefficients = DEFAULT,
    told: Callable[[Scaled, float], None] = lambda scaled, seconds: None,
) -> tuple[Scaled, float]:
    """Returns the larger network whose training step takes `seconds`, and what it takes.

    Few networks are measured: the cost model, corrected by the last measurement, says which one is
    next. It ends within 5% of the target, or after six measurements with the nearest.
    Args:
        step_seconds: measures a step of a network at an image size, that of training.
        batch_size: of the cost model; that of `step_seconds`.
        coefficients: of the cost model; a poor fit costs measurements, not the result.
        told: is called after each measurement.
    Raises: UserError if the target is below what the source takes, or above what can be built.
    """

    def at(phi: float) -> Scaled:
        return grow(source, phi, source.spec.name)

    def predicted(phi: float) -> float:
        grown = at(phi)
        return predicted_step(grown.spec, grown.train_size, batch_size, coefficients)

    tried: dict[tuple, tuple[Scaled, float]] = {}
    low, high, phi = 0.0, None, 0.0
    while len(tried) < _MOST_MEASUREMENTS:
        grown = at(phi)
        took = step_seconds(grown.spec, grown.train_size)
        if not 0 < took < math.inf:
            raise UserError(f"a training step must take more than 0 seconds, got {took}")
        if not tried and not took <= seconds < math.inf:
            raise UserError(
                f"scaling only grows: a training step must take a number of milliseconds from "
                f"{1e3 * took:.4g}, as {source.spec.name} does, got {1e3 * seconds:.4g}"
            )
        tried[_network(grown)] = (grown, took)
        told(grown, took)
        if abs(took / seconds - 1) <= _NEAR:
            break
        low, high = (phi, high) if took < seconds else (low, phi)
        wanted = predicted(phi) * seconds / took
        ends = [end for end in _bracket(predicted, wanted) if low <= end <= (high or math.inf)]
        ends.sort(key=lambda end: abs(predicted(end) - wanted))
        middle = low + _PHI_STEP if high is None else (low + high) / 2
        fresh = [p for p in ends or [middle] if _network(at(p)) not in tried]
        if not fresh:
            break  # No network lies between those that were measured.
        phi = fresh[0]
    nearest, took = min(tried.values(), key=lambda pair: abs(pair[1] - seconds))
    name = name or f"{source.spec.name}-{_digits(1e3 * took)}ms"
    return grow(source, nearest.phi, name), took


def _network(scaled: Scaled) -> tuple:
    """What makes a measurement another one."""
    return scaled.spec.blocks, scaled.train_size


def _digits(value: float) -> str:
    """Three digits or more, without an exponent."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _bracket(value_at: Callable[[float], float], target: float) -> tuple[float, float]:
    """Two φ next to each other; the first gives at most `target`, or is 0, the second at least.

    Raises: UserError if no network that can be built gives as much.
    """
    low, high = 0.0, _PHI_STEP
    while value_at(high) < target:
        low, high = high, high + _PHI_STEP
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if value_at(middle) < target else (low, middle)
    return low, high
