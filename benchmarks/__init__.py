"""Benchmarks of speed and memory, as ratios within one run; not part of the tests."""
