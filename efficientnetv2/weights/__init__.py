"""Weights: published ones, files of other libraries, checkpoints."""
