"""Speed and memory, as ratios in one run; not part of the tests."""
