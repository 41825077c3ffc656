"""How much a search may do."""

import dataclasses
import re

from hparams import UserError

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much a search may do: trials of the whole study, or seconds of this worker."""

    trials: int | None = None
    seconds: float | None = None


def parse_budget(text: str) -> Budget:
    """Reads "40" (trials), "2h", "90m" or "30s". Raises: UserError for anything else."""
    found = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)([hms])", text.strip())
    if not found:
        raise UserError(f"--search_budget must be trials or a time, 40 or 2h or 90m, got {text!r}")
    if found[1]:
        return Budget(trials=int(found[1]))
    return Budget(seconds=float(found[2]) * _UNITS[found[3]])
