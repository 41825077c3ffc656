"""What a search maximises. Source: paper section 3.3, A · S^w · P^v."""

import math

STEP_EXPONENT = -0.07  # w
PARAMETER_EXPONENT = -0.05  # v


def reward(
    accuracy: float,
    step_seconds: float,
    parameters: int,
    baseline_step_seconds: float,
    baseline_parameters: int,
    w: float = STEP_EXPONENT,
    v: float = PARAMETER_EXPONENT,
) -> float:
    """Returns the accuracy, weighed by how fast a step is and how few parameters there are.

    Units: accuracy in [0, 1]; step time and parameters count relative to the baseline's, so that a
    network that costs what the baseline costs is rewarded with its accuracy.
    Raises: ValueError if the accuracy is outside of [0, 1] or a cost is not positive and finite.
    Source: paper section 3.3, where w and v were found by hand; the normalisation is ours, see
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
