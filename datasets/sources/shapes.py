"""The embedded data set of colored shapes, plain or striped: renderer and TFDS builder.

Each of the 12 classes is a color, a texture and a shape ("red_striped_circle"), and each of the
three is needed to identify the class: the other two are shared with other classes. Shapes keep
their identity under rotation and mirroring, and the two colors (hues 0 and 222 degrees) remain
distinct when an image is inverted.

To write one image to a file, for instance to query an exported model with a held-out image:

    python -m efficientnetv2.datasets.sources.shapes --out=held_out.png --split=test --index=7
"""

import argparse
import colorsys
import io
import itertools

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.tf_import import import_tensorflow

IMAGE_SIZE = 64  # pixels
SPLIT_IDS = {"train": 0, "validation": 1, "test": 2}
SPLIT_SIZES = {"train": 6000, "validation": 600, "test": 1200}  # images

COLOURS = {"red": 0.0, "blue": 222.0}  # name -> hue, degrees
TEXTURES = ("plain", "striped")
SHAPES = ("circle", "cross", "triangle")
CLASS_NAMES = tuple("_".join(parts) for parts in itertools.product(COLOURS, TEXTURES, SHAPES))

_SUPERSAMPLING = 3  # samples per pixel side
# Centers of the samples and of the pixels, in pixels; the same for rows and columns.
_SAMPLES = (np.arange(IMAGE_SIZE * _SUPERSAMPLING, dtype=np.float32) + 0.5) / _SUPERSAMPLING
_PIXELS = np.arange(IMAGE_SIZE, dtype=np.float32) + 0.5
_STRIPE_SHARE = 0.4  # of the area
_STRIPE_SHADE = 0.2  # of the color's brightness


def render(split: str, index: int) -> tuple[np.ndarray, int]:
    """Renders one image, a pure function of (split, index).

    Labels cycle through the classes, so that every split is balanced.

    Shapes: image [64, 64, 3] uint8 in [0, 255]; label an int in [0, 12).
    Raises: UserError if the split is unknown or the index is negative.
    """
    if split not in SPLIT_IDS:
        raise UserError(f"split must be one of {', '.join(SPLIT_IDS)}, got {split!r}")
    if index < 0:
        raise UserError(f"index must be 0 or more, got {index}")
    label = index % len(CLASS_NAMES)
    colour, texture, shape = CLASS_NAMES[label].split("_")
    rng = np.random.default_rng([SPLIT_IDS[split], index])

    image = _background(rng)
    for _ in range(rng.integers(1, 4)):
        image = _paint(image, _distractor_mask(rng), _colour(rng, rng.choice(list(COLOURS))))

    radius = rng.uniform(17.0, 23.0)  # of the circle of equal area, pixels
    centre = rng.uniform(1.2 * radius, IMAGE_SIZE - 1.2 * radius, size=2)
    mask = _shape_mask(shape, centre, radius, angle=rng.uniform(0.0, 2.0 * np.pi))
    paint = _colour(rng, colour)
    image = _paint(image, mask, paint)
    if texture == "striped":
        stripes = _stripes(rng, period=rng.uniform(10.0, 13.0), points=_SAMPLES)
        image = _paint(image, mask & stripes, _STRIPE_SHADE * paint)

    image += rng.normal(0.0, 5.0, size=image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), label


def _background(rng: np.random.Generator) -> np.ndarray:
    """Renders a gray cloud with faint stripes, tinted toward either color: [64, 64, 3] float32.

    Neither the mean color nor the presence of stripes reveals the class.
    """
    coarse = rng.uniform(-28.0, 28.0, size=(6, 6))
    cells = _PIXELS / IMAGE_SIZE * 5.0  # bilinear interpolation of the 6 x 6 grid
    weights = np.maximum(0.0, 1.0 - np.abs(cells[:, None] - np.arange(6)))
    grey = rng.uniform(95.0, 165.0) + weights @ coarse @ weights.T
    stripes = _stripes(rng, period=rng.uniform(5.0, 12.0), points=_PIXELS)
    grey += rng.uniform(-14.0, 14.0) * stripes
    tint = rng.uniform(-26.0, 26.0) * np.array([1.0, 0.0, -1.0])
    return (grey[:, :, None] + tint).astype(np.float32)


def _colour(rng: np.random.Generator, name: str) -> np.ndarray:
    """Draws a color around the named hue: [3] in [0, 255]."""
    hue = (COLOURS[name] + rng.uniform(-13.0, 13.0)) % 360.0
    saturation, value = rng.uniform(0.65, 0.90), rng.uniform(0.75, 1.0)
    return 255.0 * np.array(colorsys.hsv_to_rgb(hue / 360.0, saturation, value))


def _along(angle: float, centre: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Returns the signed distance from `centre` along `angle`, on the grid of points: [N, N]."""
    rows = np.float32(np.sin(angle)) * (points - np.float32(centre[0]))
    columns = np.float32(np.cos(angle)) * (points - np.float32(centre[1]))
    return rows[:, None] + columns[None, :]


def _shape_mask(shape: str, centre: np.ndarray, radius: float, angle: float) -> np.ndarray:
    """Returns the mask of a shape at every sample: [N, N] bool. All have the area pi radius^2."""
    if shape == "circle":
        squares = [(_SAMPLES - np.float32(c)) ** 2 for c in centre]
        return squares[0][:, None] + squares[1][None, :] < radius**2
    if shape == "cross":  # two bars of length 3 and width 1: an area of 5
        width = radius * np.sqrt(np.pi / 5.0)
        bars = (
            _bar_mask(centre, 1.5 * width, 0.5 * width, angle + turn) for turn in (0, np.pi / 2)
        )
        return np.logical_or(*bars)
    inner_radius = radius * np.sqrt(np.pi / (3.0 * np.sqrt(3.0)))
    sides = (_along(angle + turn, centre, _SAMPLES) for turn in np.radians([0.0, 120.0, 240.0]))
    return np.logical_and.reduce([side < inner_radius for side in sides])


def _bar_mask(centre, half_length: float, half_width: float, angle: float) -> np.ndarray:
    """Returns the mask of a rotated rectangle at every sample: [N, N] bool."""
    return (np.abs(_along(angle, centre, _SAMPLES)) < half_length) & (
        np.abs(_along(angle + np.pi / 2.0, centre, _SAMPLES)) < half_width
    )


def _distractor_mask(rng: np.random.Generator) -> np.ndarray:
    """Draws the mask of a short plain bar at any position: [N, N] bool."""
    return _bar_mask(
        centre=rng.uniform(0.0, IMAGE_SIZE, size=2),
        half_length=rng.uniform(4.0, 8.0),
        half_width=rng.uniform(1.2, 2.2),
        angle=rng.uniform(0.0, np.pi),
    )


def _stripes(rng: np.random.Generator, period: float, points: np.ndarray) -> np.ndarray:
    """Draws the mask of dark stripes: [N, N] bool. `period` in pixels; random angle and phase."""
    angle = rng.uniform(0.0, np.pi)
    across = _along(angle, rng.uniform(0.0, period, size=2), points) / np.float32(period)
    across -= np.rint(across)  # distance to the nearest line, in periods
    return np.abs(across) < _STRIPE_SHARE / 2.0


def _paint(image: np.ndarray, mask: np.ndarray, colour: np.ndarray | float) -> np.ndarray:
    """Paints the samples of `mask`, averaged over each pixel: [64, 64, 3] float32."""
    samples = mask.view(np.uint8)
    rows = sum(samples[start::_SUPERSAMPLING] for start in range(_SUPERSAMPLING))
    pixels = sum(rows[:, start::_SUPERSAMPLING] for start in range(_SUPERSAMPLING))
    coverage = pixels[:, :, None] / np.float32(_SUPERSAMPLING**2)
    return image + coverage * (np.float32(colour) - image)


def main(arguments: list[str] | None = None) -> None:
    """Writes one image as PNG and prints its class."""
    parser = argparse.ArgumentParser(
        prog="python -m efficientnetv2.datasets.sources.shapes", description=main.__doc__
    )
    parser.add_argument("--out", required=True, help="the PNG file to write")
    parser.add_argument("--split", default="test", choices=SPLIT_IDS)
    parser.add_argument("--index", type=int, default=0, help="0 or more; the class is index mod 12")
    flags = parser.parse_args(arguments)
    import_tensorflow()
    import tensorflow as tf

    try:
        image, label = render(flags.split, flags.index)
        tf.io.write_file(flags.out, tf.io.encode_png(image))
    except (UserError, tf.errors.OpError) as error:
        parser.error(str(error))
    print(CLASS_NAMES[label])


class Shapes(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of the rendered images.

    If the output of `render` changes, VERSION must change too, since prepared directories are kept.
    """

    VERSION = tfds.core.Version("1.0.0")
    split_sizes = SPLIT_SIZES

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Coloured, textured shapes, rendered by this package.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(IMAGE_SIZE, IMAGE_SIZE, 3), encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(names=list(CLASS_NAMES)),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing to download
        return {split: self._generate_examples(split) for split in self.split_sizes}

    def _generate_examples(self, split):
        for index in range(self.split_sizes[split]):
            image, label = render(split, index)
            yield index, {"image": io.BytesIO(tf.io.encode_png(image).numpy()), "label": label}


if __name__ == "__main__":
    main()
