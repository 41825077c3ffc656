"""The worst errors as pictures, with where the evidence for the classes is."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image

from efficientnetv2.report.figures import image_png
from efficientnetv2.report.findings import Mistake
from efficientnetv2.report.gradcam import grad_cam

_SIDE, _GAP = 208, 6  # pixels
_OPAQUE = 0.6  # Of an overlay where the map is 1.


def draw_mistakes(model, mistakes: Sequence[Mistake]) -> list[bytes]:
    """Returns a PNG of each: the image, the evidence for the class predicted and for the true one.

    The third is left out where an example has no label or several.
    """
    if not mistakes:
        return []
    images = np.stack([one.image for one in mistakes])
    for_predicted = grad_cam(model, images, [one.predicted for one in mistakes])
    for_true = grad_cam(model, images, [(*one.labels, 0)[0] for one in mistakes])
    strips = []
    for one, *maps in zip(mistakes, for_predicted, for_true):
        shown = maps if len(one.labels) == 1 else maps[:1]
        strips.append(image_png(_strip(one.image, shown)))
    return strips


def overlay(image: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Returns the image with the evidence over it, the more opaque the more there is.

    Shapes: uint8 [H, W, 3], float32 [h, w] in [0, 1] -> uint8 [H, W, 3].
    """
    height, width = image.shape[:2]
    picture = Image.fromarray(evidence.astype(np.float32))
    smooth = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    smooth = np.clip(np.nan_to_num(smooth), 0.0, 1.0)
    colours = matplotlib.colormaps["turbo"](smooth)[..., :3] * 255
    share = (_OPAQUE * smooth)[..., np.newaxis]
    return np.round(image * (1 - share) + colours * share).astype(np.uint8)


def _strip(image: np.ndarray, maps: Sequence[np.ndarray]) -> np.ndarray:
    pixels = np.clip(np.round(image), 0, 255).astype(np.uint8)
    way = Image.Resampling.NEAREST if pixels.shape[1] < _SIDE else Image.Resampling.LANCZOS
    large = np.asarray(Image.fromarray(pixels).resize((_SIDE, _SIDE), way))
    gap = np.full((_SIDE, _GAP, 3), 255, np.uint8)
    parts = [large]
    for evidence in maps:
        parts += [gap, overlay(large, evidence)]
    blank = np.full((_SIDE, _GAP + _SIDE, 3), 255, np.uint8)  # So that all strips are as wide.
    return np.concatenate([*parts, *[blank] * (2 - len(maps))], axis=1)
