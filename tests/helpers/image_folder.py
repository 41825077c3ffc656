"""A folder of small images for tests, one folder per class."""

import numpy as np
import tensorflow as tf


def jpeg(number: int, height: int = 12, width: int = 16) -> bytes:
    """A JPEG of noise; no two numbers give the same."""
    rng = np.random.default_rng(number)
    return tf.io.encode_jpeg(rng.integers(0, 256, (height, width, 3), np.uint8)).numpy()


def make_images(root, counts: dict[str, int], first: int = 0) -> None:
    """Writes `counts[name]` images to each `root/name/`, numbered through from `first`."""
    number = first
    for name, count in counts.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            (folder / f"{number:05d}.jpg").write_bytes(jpeg(number))
            number += 1
