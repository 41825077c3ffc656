"""Loading weights: any published checkpoint, or a run's, into a network that is built."""

from efficientnetv2.weights.loading import LoadReport, assign, load_weights
from efficientnetv2.weights.named import Opened, load_into, open_weights, pretrained_row
from efficientnetv2.weights.starting import StartingWeights, open_starting_weights

__all__ = [
    "LoadReport",
    "Opened",
    "StartingWeights",
    "assign",
    "load_into",
    "load_weights",
    "open_starting_weights",
    "open_weights",
    "pretrained_row",
]
