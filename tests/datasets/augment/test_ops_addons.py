"""The official code moves pixels by tensorflow-addons; collected only where it is installed."""

import warnings
from pathlib import Path

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # It says that its development has ended.
    from tensorflow_addons import image as addons

from efficientnetv2.datasets.augment.policies import apply_op

PHOTO = np.load(Path(__file__).parents[2] / "data" / "augmentation_ops.npz")["input"]
TRANSFORMS = {
    "ShearX": lambda x, level: addons.transform(x, [1.0, level * 0.3, 0, 0, 1.0, 0, 0, 0]),
    "ShearY": lambda x, level: addons.transform(x, [1.0, 0, 0, level * 0.3, 1.0, 0, 0, 0]),
    "Rotate": lambda x, level: addons.rotate(x, np.float32(level * 30) * np.float32(np.pi / 180)),
    "TranslateX": lambda x, level: addons.translate(x, [-level * 100, 0]),
    "TranslateY": lambda x, level: addons.translate(x, [0, -level * 100]),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("size", [(96, 80), (33, 31), (1, 7), (7, 1)])
def test_agrees_with_the_addons(name, size):
    image = PHOTO[: size[0], : size[1]]
    with_ones = np.concatenate([image, np.ones_like(image[..., :1])], axis=-1)
    for magnitude in (0.0, 0.125, 0.35, 0.725, 1.25, 3.7, 6.667, 15.0, 30.0):
        for sign in (1.0, -1.0):
            moved = TRANSFORMS[name](with_ones, sign * magnitude / 10).numpy()
            expected = np.where(moved[..., 3:] == 1, moved[..., :3], 128)
            result = apply_op(name, image, magnitude, sign < 0)
            np.testing.assert_array_equal(result, expected, str((magnitude, sign)))
