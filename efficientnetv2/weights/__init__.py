"""Loading weights: any published checkpoint, or a run's, into a network that is built."""

from efficientnetv2.weights.loading import LoadReport, assign, load_weights
from efficientnetv2.weights.named import Opened, load_into, open_weights, pretrained_row

__all__ = [
    "LoadReport",
    "Opened",
    "assign",
    "load_into",
    "load_weights",
    "open_weights",
    "pretrained_row",
]
