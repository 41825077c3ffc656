"""A field of a config, with the bounds that `hparams.config.check_value` enforces."""

import dataclasses


def setting(default, *, least=None, above=None, most=None, below=None, choices=None):
    """Returns a dataclass field with bounds on its value."""
    bounds = {"least": least, "above": above, "most": most, "below": below, "choices": choices}
    return dataclasses.field(default=default, metadata=bounds)
