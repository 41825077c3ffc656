"""Tools for data sets: check, prepare, preview."""
