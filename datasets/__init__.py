"""From a data set's name to batches: sources, preprocessing, augmentation (tf.data)."""

from datasets.pipeline import build_dataset, with_source_facts
from datasets.sources import Source, open_source

__all__ = ["Source", "build_dataset", "open_source", "with_source_facts"]
