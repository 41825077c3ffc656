"""Exports: SavedModels for serving, other formats, verification, prediction, demo page."""
