"""Weights: published archives, files of other libraries, checkpoints."""
