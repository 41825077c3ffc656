"""What each `--mode` does; `main.py` has the flags. Each module reads them from `absl.flags`."""
