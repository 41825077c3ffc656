"""Real images of a run's data set: to calibrate 8-bit formats, and to compare formats on."""

import dataclasses

import numpy as np

import datasets
from export.samples import sample_images
from export.serving import evaluation_pixels
from hparams import Config, UserError

CALIBRATION, COMPARISON = 48, 64  # Images, evenly spread over a split.


@dataclasses.dataclass(frozen=True)
class Images:
    """Pixels as the network sees them, float32 [N, S, S, 3] in [0, 255].

    `labels`: int64 [N], or None where they are not known or an example may have several.
    `origin`: where they are from, for people.
    """

    pixels: np.ndarray
    labels: np.ndarray | None
    origin: str


def from_split(config: Config, split: str, count: int) -> Images:
    """Returns `count` examples of a split, or all, if there are fewer.

    Raises: UserError if the data set cannot be opened.
    """
    source = datasets.open_source(config.data, split, config.train.seed)
    step = max(1, source.num_examples // count)
    pixels, labels = [], []
    for record in source.records(None).shard(step, 0).take(count):
        image_bytes, label = source.load(*record)
        pixels.append(evaluation_pixels(image_bytes, config.eval.isize, config.data).numpy())
        labels.append(label.numpy())
    known = not source.multi_label and len(source.class_names) == config.data.num_classes
    return Images(
        np.clip(np.stack(pixels), 0, 255),
        np.array(labels) if known else None,
        f"{len(pixels)} examples of {split}",
    )


def to_compare(config: Config) -> Images:
    """Returns examples of the `eval` split, or, where its data is not there, two made-up images."""
    try:
        return from_split(config, "eval", COMPARISON)
    except UserError as error:
        pixels = [evaluation_pixels(x, config.eval.isize, config.data) for x in sample_images()]
        return Images(np.clip(np.stack(pixels), 0, 255), None, f"2 made-up images, for {error}")
