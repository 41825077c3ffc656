"""From a data set's name to batches: sources, preprocessing, augmentation (tf.data)."""

import importlib

_HOMES = {
    "BadExamples": "datasets.bad_examples",
    "Source": "datasets.sources",
    "build_dataset": "datasets.pipeline",
    "find_unreadable": "datasets.unreadable",
    "names_of_batch": "datasets.batch_names",
    "open_source": "datasets.sources",
    "with_source_facts": "datasets.pipeline",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    """Imports on first use: `datasets.shapes` and `datasets.quiet` do without TensorFlow."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
