"""Helpers that every package uses: errors, files, text, figures, TensorFlow import."""
