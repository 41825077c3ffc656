"""A network that was grown beside its source and the published ones of about its size."""

import dataclasses
from collections.abc import Sequence

from hparams.architecture_tables import get_spec, list_models
from hparams.architectures import ModelSpec
from hparams.published import Published, published_figures
from search.counts import Counts, count
from search.scaling import Scaled

_NEAR = 0.15  # Of the parameters, up and down.
_FAMILY = "efficientnetv2-"
_KINDS = {"fused": "F", "mbconv": "M"}
_COLUMNS = ("", "size", "params (M)", "published", "FLOPs (B)", "published", "blocks")
_LEGEND = """\
Parameters are those trained, for 1000 classes; FLOPs are multiply-adds per image at this size. In
brackets: how much more or less the network that was grown has than the published figure."""
_ROWS_LEGEND = """\
kind (F fused, M MBConv), kernel, expansion: channels x layers"""


@dataclasses.dataclass(frozen=True)
class Near:
    """A named network of about the same size; `known` is the source that names most digits."""

    name: str
    known: Published

    @property
    def spec(self) -> ModelSpec:
        return get_spec(self.name)

    @property
    def counts(self) -> Counts:
        return count(self.spec, self.known.image_size)

    def differences(self, scaled: Scaled) -> tuple[float, float | None]:
        """By how much the grown network has more parameters and FLOPs, as fractions.

        FLOPs are compared at the size of the published figure; None where there is none.
        """
        counts = count(scaled.spec, self.known.image_size)
        macs = self.known.macs and self.known.macs.difference(counts.macs)
        return self.known.params.difference(counts.trainable_params), macs

    def record(self, scaled: Scaled) -> dict:
        """For JSON."""
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
            if abs(known.params.difference(params)) <= _NEAR:
                found.append(Near(name, known))
    return tuple(found)


def sizes_table(source: Scaled, scaled: Scaled, near: Sequence[Near]) -> str:
    """Returns a line for each network: size, parameters, FLOPs, blocks, and a legend."""
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
    """Returns the rows of the networks beside each other, which tells where they differ."""
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
