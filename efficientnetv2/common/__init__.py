"""Shared helpers: errors, files, text, figures, TensorFlow import."""
