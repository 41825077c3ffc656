"""Profiles as a text table, and as records for JSON."""

import dataclasses
from collections.abc import Sequence

from efficientnetv2.profiling.profile import Profile
from hparams.published import Figure, Published

_COLUMNS = (
    "model",
    "size",
    "params (M)",
    "trained (M)",
    "published",
    "FLOPs (B)",
    "published",
    "activations (M)",
    "MB",
)
_LEGEND = """\
FLOPs are multiply-adds per image; activations are the outputs of convolutions and dense layers;
MB is the size of the float32 weights. "trained" leaves out moving averages, as most published
figures do. In brackets: how far a count is from a figure that it neither rounds to nor, FLOPs,
comes within 3% of."""


def profile_table(profiles: Sequence[Profile]) -> str:
    """Returns one line per profile, published figures beside the counts, and a legend.

    Published FLOPs stand only where they are for the size of the profile.
    """
    rows = [_COLUMNS] + [_row(profile) for profile in profiles]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join([row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:])])
        for row in rows
    ]
    return "\n".join([*lines, "", _LEGEND])


def _row(profile: Profile) -> tuple[str, ...]:
    params = [_params_cell(profile, known) for known in profile.published]
    macs = [
        _cell(known.macs, profile.macs, known.macs_agree(profile.macs))
        for known in profile.published
        if known.macs and known.image_size == profile.image_size
    ]
    return (
        profile.model,
        str(profile.image_size),
        f"{profile.params / 1e6:.2f}",
        f"{profile.trainable_params / 1e6:.2f}",
        ", ".join(params) or "-",
        f"{profile.macs / 1e9:.3f}",
        ", ".join(macs) or "-",
        f"{profile.activations / 1e6:.1f}",
        f"{profile.megabytes:.1f}",
    )


def _params_cell(profile: Profile, known: Published) -> str:
    agree = known.params_agree(profile.params, profile.trainable_params)
    return _cell(known.params, profile.trainable_params, agree)


def _cell(figure: Figure, count: int, agree: bool | None) -> str:
    return figure.digits if agree else f"{figure.digits} ({figure.difference(count):+.1%})"


def profile_record(profile: Profile) -> dict:
    """Returns the counts, those of each part and the published figures, ready for `json.dump`.

    Units: counts per image; of published figures, `macs_agree` is None where the figure is missing
    or holds for another size; `macs_difference` is by how much our count is larger, as a fraction.
    """
    record = dataclasses.asdict(profile)
    record["megabytes"] = profile.megabytes
    record["published"] = [_published_record(profile, known) for known in profile.published]
    return record


def _published_record(profile: Profile, known: Published) -> dict:
    comparable = known.macs is not None and known.image_size == profile.image_size
    return {
        "source": known.source,
        "image_size": known.image_size,
        "params": known.params.value,
        "params_agree": known.params_agree(profile.params, profile.trainable_params),
        "macs": known.macs.value if known.macs else None,
        "macs_agree": known.macs_agree(profile.macs) if comparable else None,
        "macs_difference": known.macs.difference(profile.macs) if comparable else None,
    }
