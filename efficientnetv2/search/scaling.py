"""Compound scaling: larger networks from a given one, by one coefficient.

Source: paper section 3.3, "scaling": compound scaling as in arXiv 1905.11946, layers added
gradually to later stages, and images of at most 480 pixels. The paper gives no constants; ours are
chosen so that S with φ = 1 has about the parameters and multiply-adds of M, and with φ = 2 of L.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams.models import Published, get_spec, list_models, published_figures
from efficientnetv2.hparams.spec import ModelSpec, check_spec, scale_spec
from efficientnetv2.network.counts import Counts, count
from efficientnetv2.search.cost_model import DEFAULT, Coefficients, predicted_step

WIDTH = 1.14  # Factor of the channels per unit of φ.
LATE_LAYERS = 1.9  # Factor of the layers in the last row; falls linearly to 1 in the first row.
SIZE = 1.25  # Factor of the pixels of a side.
MOST_PIXELS = 480
_SIZE_STEP = 8  # Pixels; scaled sizes are rounded to a multiple of it.
_PHI_STEP = 0.5  # Step towards a target before the bisection.
_HALVINGS = 60
_STEP_TIME_TOLERANCE = 0.05  # Relative difference from its target at which a step time is accepted.
_MOST_MEASUREMENTS = 6
_PARAMS_TOLERANCE = 0.15  # Relative difference of the parameters, in both directions.
_FAMILY = "efficientnetv2-"
_KINDS = {"fused": "F", "mbconv": "M"}
_COLUMNS = ("", "size", "params (M)", "published", "FLOPs (B)", "published", "blocks")
_LEGEND = """\
Parameters are those trained, for 1000 classes; FLOPs are multiply-adds per image at this size. In
brackets: how much more or less the network that was grown has than the published figure."""
_ROWS_LEGEND = """\
kind (F fused, M MBConv), kernel, expansion: channels x layers"""


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A network and its image sizes, in pixels."""

    spec: ModelSpec
    eval_size: int
    train_size: int  # In the last stage of training.
    phi: float = 0.0

    @property
    def counts(self) -> Counts:
        """The counts of the network at `eval_size`, for 1000 classes."""
        return count(self.spec, self.eval_size)


def grow(source: Scaled, phi: float, name: str) -> Scaled:
    """Returns the network scaled up by `phi` units, with a new name; 0 keeps its size.

    Image sizes stop growing when the evaluation size reaches 480 pixels; the ratio of training to
    evaluation size is kept.
    Raises: UserError if the network is too large to build.
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
    """Returns the scaled network whose trainable parameters, for 1000 classes, are closest.

    Without a `name`, it is named after the source and its parameters: "efficientnetv2-s-53.7m".
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
    """Returns the scaled network whose training step takes about `seconds`, and its time.

    Few networks are measured: the cost model, corrected by the last measurement, selects the next
    one. The search ends within 5% of the target, or after six measurements with the closest.
    Args:
        step_seconds: measures a step of a network at a training image size.
        batch_size: batch size for the cost model; the one that `step_seconds` uses.
        coefficients: of the cost model; a poor fit costs more measurements, not a worse result.
        told: called after each measurement.
    Raises: UserError if the target is below the time of the source, or above what can be built.
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
        if abs(took / seconds - 1) <= _STEP_TIME_TOLERANCE:
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
    """Returns the key of a measurement: networks with equal keys are measured once."""
    return scaled.spec.blocks, scaled.train_size


def _digits(value: float) -> str:
    """Formats a value with three digits or more, without an exponent."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _bracket(value_at: Callable[[float], float], target: float) -> tuple[float, float]:
    """Returns two adjacent φ: the first gives at most `target`, or is 0; the second at least.

    Raises: UserError if no network that can be built reaches the target.
    """
    low, high = 0.0, _PHI_STEP
    while value_at(high) < target:
        low, high = high, high + _PHI_STEP
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if value_at(middle) < target else (low, middle)
    return low, high


@dataclasses.dataclass(frozen=True)
class Near:
    """A named network of about the same size; `known` is the source with the most digits."""

    name: str
    known: Published

    @property
    def spec(self) -> ModelSpec:
        """The published architecture."""
        return get_spec(self.name)

    @property
    def counts(self) -> Counts:
        """Its counts at the published image size."""
        return count(self.spec, self.known.image_size)

    def differences(self, scaled: Scaled) -> tuple[float, float | None]:
        """Returns by which fractions the scaled network has more parameters and FLOPs.

        FLOPs are compared at the image size of the published figure; None if there is none.
        """
        counts = count(scaled.spec, self.known.image_size)
        macs = self.known.macs and self.known.macs.difference(counts.macs)
        return self.known.params.difference(counts.trainable_params), macs

    def record(self, scaled: Scaled) -> dict:
        """Returns the published figures and the differences from them, for JSON."""
        params, macs = self.differences(scaled)
        return {
            "model": self.name,
            "source": self.known.source,
            "params": self.known.params.value,
            "params_difference": params,
            "image_size": self.known.image_size,
            "macs": self.known.macs and self.known.macs.value,
            "macs_difference": macs,
        }


def published_near(scaled: Scaled) -> tuple[Near, ...]:
    """Returns the EfficientNetV2 whose published parameters are within 15% of a network's."""
    params, found = scaled.counts.trainable_params, []
    for name in list_models():
        figures = published_figures(name)
        if name.startswith(_FAMILY) and figures:
            known = max(figures, key=lambda figure: len(figure.params.digits))
            if abs(known.params.difference(params)) <= _PARAMS_TOLERANCE:
                found.append(Near(name, known))
    return tuple(found)


def sizes_table(source: Scaled, scaled: Scaled, near: Sequence[Near]) -> str:
    """Returns a table with image size, parameters, FLOPs and blocks per network, and a legend."""
    rows = [_COLUMNS]
    for one in (source, scaled):
        rows.append(_size_row(one.spec, one.eval_size, one.counts, "-", "-"))
    for one in near:
        params, macs = one.differences(scaled)
        published = f"{one.known.params.digits} ({params:+.1%})"
        flops = f"{one.known.macs.digits} ({macs:+.1%})" if one.known.macs else "-"
        rows.append(_size_row(one.spec, one.known.image_size, one.counts, published, flops))
    return f"{_aligned(rows)}\n\n{_LEGEND}"


def rows_table(source: Scaled, scaled: Scaled, near: Sequence[Near]) -> str:
    """Returns the rows of the networks side by side, which shows where they differ."""
    specs = [source.spec, scaled.spec, *(one.spec for one in near)]
    columns = [_rows(spec) for spec in specs]
    most = max(map(len, columns))
    table = [("stage", *(spec.name for spec in specs))]
    for number in range(most):
        cells = (column[number] if number < len(column) else "-" for column in columns)
        table.append((str(number + 1), *cells))
    table.append(("head", *(str(spec.scaled_channels(spec.head_channels)) for spec in specs)))
    return f"{_aligned(table)}\n\n{_ROWS_LEGEND}"


def _size_row(spec: ModelSpec, size: int, counts: Counts, params: str, macs: str) -> tuple:
    return (
        spec.name,
        str(size),
        f"{counts.trainable_params / 1e6:.2f}",
        params,
        f"{counts.macs / 1e9:.3f}",
        macs,
        str(len(spec.scaled_blocks())),
    )


def _rows(spec: ModelSpec) -> list[str]:
    return [
        f"{_KINDS[row.kind]}{row.kernel} e{row.expand}: "
        f"{spec.scaled_channels(row.channels)} x {spec.scaled_repeats(row)}"
        for row in spec.blocks
    ]


def _aligned(rows: Sequence[tuple]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:])])
        for row in rows
    )
