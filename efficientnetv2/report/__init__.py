"""Reports of runs and profiles: evaluation, plots, HTML."""
