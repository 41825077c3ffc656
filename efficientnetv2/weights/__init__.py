"""Loading weights into a network that is already built."""

from efficientnetv2.weights.loading import LoadReport, load_weights

__all__ = ["LoadReport", "load_weights"]
