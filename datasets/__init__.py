"""Data sets: sources, preprocessing, augmentation and batches (tf.data)."""

import importlib

_HOMES = {
    "BadExamples": "efficientnetv2.datasets.bad_examples",
    "Source": "efficientnetv2.datasets.sources.source",
    "build_dataset": "efficientnetv2.datasets.pipeline",
    "find_unreadable": "efficientnetv2.datasets.bad_examples",
    "names_of_batch": "efficientnetv2.datasets.pipeline",
    "open_source": "efficientnetv2.datasets.sources.registry",
    "with_source_facts": "efficientnetv2.datasets.pipeline",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    """Imports a name on first use, so that importing the package does not import TensorFlow."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
