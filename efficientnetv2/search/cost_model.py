"""Reward of a search, and an analytic model of training step times on other devices.

Reward: paper section 3.3, A · S^w · P^v. The step time is modeled as a sum of computation, memory
traffic and launch overhead.

    seconds = images · (per_mac · full + per_depthwise_mac · depthwise
                        + per_activation · activations)
              + per_param · parameters + per_layer · layers

`full` are the multiply-adds of all layers except depthwise convolutions, which run at another speed
(paper section 3.2: they have fewer operations but cannot use the device fully); parameters are read
and updated, and layers launched, once per step. Coefficients come from a device's data sheet
(`roofline`), or from a few measured steps (`fit`). docs/search.md lists what the model omits.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams.spec import ModelSpec
from efficientnetv2.network.counts import count

_PASSES = 3  # Forward, the gradient of the inputs, the gradient of the weights.
# Reads and writes of a convolution's output by BatchNorm, activation and gradients. Source: ours,
# chosen so that the speeds of a V100 are within 10% of the paper's Table 3.
_ACTIVATION_MOVES = 10
_PARAM_MOVES = 8  # Reads and writes of weight, gradient, two RMSProp slots, average of weights.
_PARAM_BYTES = 4  # Weights are float32 under any precision.
_MEASUREMENTS_PER_COEFFICIENT = 3
STEP_EXPONENT = -0.07  # w
PARAMETER_EXPONENT = -0.05  # v


@dataclasses.dataclass(frozen=True)
class Coefficients:
    """Seconds of a training step. The first three are per image, the others per step."""

    per_mac: float
    per_depthwise_mac: float
    per_activation: float
    per_param: float
    per_layer: float


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A measured training step."""

    spec: ModelSpec
    image_size: int  # Pixels.
    batch_size: int
    seconds: float


def roofline(
    flops_per_second: float,
    bytes_per_second: float,
    seconds_per_layer: float,
    *,
    bytes_per_value: int = 2,
    efficiency: float = 0.5,
) -> Coefficients:
    """Returns coefficients from the peak rates of a device, such as those of its data sheet.

    Args:
        flops_per_second: of dense products in the training precision; a multiply-add counts as two.
        bytes_per_second: of the main memory of the device.
        seconds_per_layer: to launch the forward and backward pass of a layer.
        bytes_per_value: of an activation: 2 in bfloat16, 4 in float32.
        efficiency: the share of both rates that is reached.
    Raises: UserError if a figure is not positive.
    Source: the roofline of Williams et al., 2009, as a sum instead of the maximum, because memory
    traffic and computation hardly overlap in small layers. Depthwise convolutions are memory-bound.
    """
    for name, value in (
        ("flops_per_second", flops_per_second),
        ("bytes_per_second", bytes_per_second),
        ("seconds_per_layer", seconds_per_layer),
        ("bytes_per_value", bytes_per_value),
        ("efficiency", efficiency),
    ):
        if not 0 < value < float("inf"):
            raise UserError(f"{name} must be above 0, got {value}")
    move = 1 / (bytes_per_second * efficiency)
    return Coefficients(
        per_mac=_PASSES * 2 / (flops_per_second * efficiency),
        per_depthwise_mac=_PASSES * bytes_per_value * move,  # One value of the window, uncached.
        per_activation=_ACTIVATION_MOVES * bytes_per_value * move,
        per_param=_PARAM_MOVES * _PARAM_BYTES * move,
        per_layer=seconds_per_layer,
    )


# Peak rates of the vendors' data sheets: 16-bit dense products, memory. The CPU: two cores of a
# server in float32, chosen so that B0 and S match the measurements in docs/performance.md.
DEVICES = {
    "v100": roofline(125e12, 0.9e12, 60e-6),
    "a100": roofline(312e12, 1.555e12, 60e-6),
    "h100": roofline(989e12, 3.35e12, 60e-6),
    "cpu": roofline(350e9, 30e9, 100e-6, bytes_per_value=4),
}
DEFAULT = DEVICES["v100"]  # The device of the paper's measurements.


def predicted_step(
    spec: ModelSpec,
    image_size: int,
    batch_size: int,
    coefficients: Coefficients = DEFAULT,
    *,
    num_classes: int = 1000,
) -> float:
    """Predicts the seconds of a training step, without building the network.

    Raises: UserError if a size is not a positive integer.
    """
    features = _features(spec, image_size, batch_size, num_classes)
    return float(features @ np.array(dataclasses.astuple(coefficients)))


def fit(measured: Sequence[Measurement], *, num_classes: int = 1000) -> Coefficients:
    """Fits non-negative coefficients to measured steps.

    Minimizes the sum of squared relative errors. At most one coefficient per three measurements is
    nonzero, so that few measurements are not overfitted.
    Raises: UserError for fewer than three measurements, or a time that is not positive.
    """
    if len(measured) < _MEASUREMENTS_PER_COEFFICIENT:
        raise UserError(
            f"a cost model needs at least {_MEASUREMENTS_PER_COEFFICIENT} measured steps, "
            f"got {len(measured)}"
        )
    seconds = np.array([one.seconds for one in measured], float)
    if not (np.isfinite(seconds) & (seconds > 0)).all():
        raise UserError(f"measured steps must take more than 0 seconds, got {min(seconds)}")
    rows = np.stack(
        [_features(one.spec, one.image_size, one.batch_size, num_classes) for one in measured]
    )
    relative = rows / seconds[:, None]  # The product with the coefficients should be 1.
    return Coefficients(*_least_squares(relative, len(measured) // _MEASUREMENTS_PER_COEFFICIENT))


def held_out(measured: Sequence[Measurement], *, num_classes: int = 1000) -> list[float]:
    """Returns the seconds of each measurement as predicted by a fit to all others.

    Raises: UserError as `fit`.
    """
    predicted = []
    for index, one in enumerate(measured):
        others = [*measured[:index], *measured[index + 1 :]]
        found = fit(others, num_classes=num_classes)
        sizes = (one.image_size, one.batch_size)
        predicted.append(predicted_step(one.spec, *sizes, found, num_classes=num_classes))
    return predicted


def rank_correlation(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Returns Spearman's rank correlation, in [-1, 1]; equal values share their mean rank.

    Raises: UserError for fewer than two pairs, unequal lengths, or values that are all equal.
    """
    if len(predicted) != len(measured) or len(measured) < 2:
        raise UserError(
            "a rank correlation needs two or more pairs, "
            f"got {len(predicted)} predictions of {len(measured)} measurements"
        )
    ranks = np.stack([_ranks(predicted), _ranks(measured)])
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    spread = np.sqrt((centred**2).sum(axis=1))
    if not spread.all():
        raise UserError("a rank correlation needs values that differ, got one value throughout")
    return float(np.clip(centred[0] @ centred[1] / spread.prod(), -1, 1))


def _features(spec: ModelSpec, image_size: int, batch_size: int, num_classes: int) -> np.ndarray:
    """Returns the values that the `Coefficients` are multiplied by, in their order."""
    if type(batch_size) is not int or batch_size < 1:
        raise UserError(f"batch_size must be a positive whole number, got {batch_size!r}")
    counts = count(spec, image_size, num_classes)
    full = counts.macs - counts.depthwise_macs
    images = [batch_size * value for value in (full, counts.depthwise_macs, counts.activations)]
    return np.array([*images, counts.params, counts.layers], float)


def _least_squares(rows: np.ndarray, most: int) -> np.ndarray:
    """Returns the non-negative x, with at most `most` nonzero values, that minimizes |rows x - 1|².

    Since there are few columns, every combination of nonzero values is tried.
    """
    best, least = np.zeros(rows.shape[1]), float("inf")
    scale = np.abs(rows).max(axis=0)
    scale[scale == 0] = 1.0  # No depthwise convolution at all.
    for number in range(1, min(most, rows.shape[1]) + 1):
        for columns in itertools.combinations(range(rows.shape[1]), number):
            part = (rows / scale)[:, columns]
            found = np.linalg.lstsq(part, np.ones(len(rows)), rcond=None)[0]
            error = float(((part @ found - 1) ** 2).sum())
            if (found >= 0).all() and error < least - 1e-12:  # Ties: the fewest.
                best, least = np.zeros(rows.shape[1]), error
                best[list(columns)] = found
    return best / scale


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Returns ranks from 0; equal values share their mean rank."""
    numbers = np.asarray(values, float)
    below = (numbers[None, :] < numbers[:, None]).sum(axis=1)
    equal = (numbers[None, :] == numbers[:, None]).sum(axis=1)
    return below + (equal - 1) / 2


def reward(
    accuracy: float,
    step_seconds: float,
    parameters: int,
    baseline_step_seconds: float,
    baseline_parameters: int,
    w: float = STEP_EXPONENT,
    v: float = PARAMETER_EXPONENT,
) -> float:
    """Returns the accuracy, weighted by the step time and the number of parameters.

    Units: accuracy in [0, 1]; step time and parameters are relative to the baseline's, so that the
    reward of a network with the baseline's costs is its accuracy.
    Raises: ValueError if the accuracy is outside [0, 1] or a cost is not positive and finite.
    Source: paper section 3.3, where w and v were found by hand; the normalization is ours, see
    docs/deviations.md.
    """
    if not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy must be in [0, 1], got {accuracy}")
    costs = {
        "step_seconds": step_seconds,
        "parameters": parameters,
        "baseline_step_seconds": baseline_step_seconds,
        "baseline_parameters": baseline_parameters,
    }
    for name, cost in costs.items():
        if not 0 < cost < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {cost}")
    relative_step = step_seconds / baseline_step_seconds
    return accuracy * relative_step**w * (parameters / baseline_parameters) ** v
