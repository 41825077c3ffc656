"""Preprocessing of one encoded image into a square of pixels: decode, crop, resize, flip.

Pixels stay in [0, 255]; the model normalizes. `preprocess_eval` is deterministic and is the only
evaluation path; `preprocess_train` is a pure function of its arguments, including the seed.

Source: official preprocessing.py ("v2", bilinear), preprocess_legacy.py ("v1", bicubic).
"""

from collections.abc import Callable

import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.decode import check_pixels, decode_image
from efficientnetv2.hparams import nearest
from efficientnetv2.hparams.config import EVAL_CROPS

CROP_PADDING = 32  # pixels: a model of size S sees S / (S + 32) of the shorter side
_FLIP = (0, 1 << 60)  # added to a seed; positions in a data set are far smaller
_WHOLE_IMAGE_FROM = 320  # pixels: from this size on, the "v2" rule evaluates without a crop


def _center_window(size: tf.Tensor, image_size: int, round_up: bool) -> tf.Tensor:
    """Returns the central square whose side is S / (S + 32) of the shorter side.

    Shapes: size int32 [2] (height, width) -> int32 [4] (top, left, side, side).
    """
    shorter = tf.cast(tf.reduce_min(size), tf.float32)
    side = tf.cast(image_size / (image_size + CROP_PADDING) * shorter, tf.int32)
    side = tf.maximum(side, 1)  # For an image one pixel wide; an error in the official code.
    top_left = (size - side + (1 if round_up else 0)) // 2
    return tf.stack([top_left[0], top_left[1], side, side])


def _eval_window(size: tf.Tensor, image_size: int, crop: str) -> tf.Tensor:
    if crop == "v1" or (crop == "v2" and image_size < _WHOLE_IMAGE_FROM):
        return _center_window(size, image_size, round_up=crop == "v1")
    return tf.concat([[0, 0], size], axis=0)


def _cut(image: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    top, left, height, width = tf.unstack(window)
    return image[top : top + height, left : left + width]


def _bilinear(image: tf.Tensor, image_size: int) -> tf.Tensor:
    """Resizes with half-pixel centers, never with antialiasing (as in all official paths)."""
    return tf.raw_ops.ResizeBilinear(
        images=image[None], size=[image_size, image_size], half_pixel_centers=True
    )[0]


def _legacy_bicubic(image: tf.Tensor, image_size: int) -> tf.Tensor:
    """Resizes as TF1's bicubic: a = -0.75, no half-pixel centers; overshoots [0, 255]."""
    resized = tf.raw_ops.ResizeBicubic(
        images=image[None],
        size=[image_size, image_size],
        align_corners=False,
        half_pixel_centers=False,
    )
    return resized[0]


RESIZE_METHODS: dict[str, Callable[[tf.Tensor, int], tf.Tensor]] = {
    "bilinear": _bilinear,
    "legacy_bicubic": _legacy_bicubic,
}


def _check_choice(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"unknown {option} {value!r}{nearest(value, known)}")


def _check_size(image_size: int) -> None:
    if image_size < 1:
        raise UserError(f"image_size must be a positive number of pixels, got {image_size}")


def _to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    """Rounds float pixels to the nearest integer in [0, 255], halves up."""
    pixels = tf.raw_ops.ClipByValue(t=pixels + 0.5, clip_value_min=0.0, clip_value_max=255.0)
    return tf.cast(pixels, tf.uint8)


def preprocess_eval(
    image_bytes: tf.Tensor,
    image_size: int,
    *,
    crop: str = "v2",
    resize_method: str = "bilinear",
    exact: bool = False,
    max_pixels: int | None = None,
    position: tf.Tensor | None = None,
) -> tf.Tensor:
    """Decodes, center-crops and resizes an image for evaluation.

    Shapes: scalar string -> [S, S, 3] in [0, 255], uint8 (rounded), or float32 if `exact`.
    Source: official preprocessing.py ("v2") and preprocess_legacy.py ("v1").

    Args:
        image_bytes: an encoded image, see `decode_image`.
        image_size: S in pixels.
        crop: "v2": for S below 320 pixels, the central square of S/(S+32) of the shorter side;
            from 320 on, the whole image, squashed to a square. "v1": always that central square.
            "whole": always the whole image.
        resize_method: "bilinear", or "legacy_bicubic", with which the B models and V1 were
            evaluated.
        exact: return the resized values before rounding; bicubic ones may exceed [0, 255].
        max_pixels: reject larger images before they are decoded; None: no limit.
        position: int32 scalar, the image's position in its batch, named in errors.

    Raises:
        UserError: unknown crop or resize_method, image_size not positive.
        tf.errors.InvalidArgumentError: the bytes are not a valid image, or the image is too large.
    """
    _check_choice("crop", crop, EVAL_CROPS)
    _check_choice("resize_method", resize_method, tuple(RESIZE_METHODS))
    _check_size(image_size)
    image = decode_image(image_bytes, max_pixels, position)
    image = _cut(image, _eval_window(tf.shape(image)[:2], image_size, crop))
    image = RESIZE_METHODS[resize_method](image, image_size)
    image = tf.ensure_shape(image, [image_size, image_size, 3])
    return image if exact else _to_uint8(image)


def draw_crop(
    size: tf.Tensor,
    image_size: int,
    seed: tf.Tensor,
    *,
    crop_area_min: float,
    resize_method: str = "bilinear",
) -> tf.Tensor:
    """Draws the window of a random resized crop.

    Shapes: size int32 [2] (height, width), seed int64 [2] -> int32 [4] (top, left, height, width).
    Source: official preprocessing.py and preprocess_legacy.py.
    """
    whole = tf.concat([[0, 0], size], axis=0)
    if crop_area_min == 1.0:
        return whole
    legacy = resize_method == "legacy_bicubic"
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        image_size=tf.concat([size, [3]], axis=0),
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed=seed,
        min_object_covered=0.1 if legacy else 0.0,
        aspect_ratio_range=(3 / 4, 4 / 3) if legacy else (0.75, 1.33),
        area_range=(crop_area_min, 1.0),
        max_attempts=10 if legacy else 100,
        use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([begin[:2], extent[:2]], axis=0)
    if legacy:  # no window found: the evaluation crop instead of the whole image
        center = _center_window(size, image_size, round_up=True)
        window = tf.where(tf.reduce_all(extent[:2] == size), center, window)
    return window


def _decode_window(image_bytes: tf.Tensor, window: tf.Tensor, image_size: int, fast: bool):
    """Decodes a window of a JPEG; with `fast`, at 1/2, 1/4 or 1/8 of its size if that suffices."""
    if not fast:
        return tf.io.decode_and_crop_jpeg(image_bytes, window, channels=3)

    def reduced(ratio: int):
        return lambda: tf.io.decode_and_crop_jpeg(
            image_bytes,
            window // ratio,
            channels=3,
            ratio=ratio,
            fancy_upscaling=False,
            dct_method="INTEGER_FAST",
        )

    times = tf.reduce_min(window[2:]) // image_size
    which = tf.reduce_sum(tf.cast(times >= tf.constant([2, 4, 8]), tf.int32))
    return tf.switch_case(which, [reduced(ratio) for ratio in (1, 2, 4, 8)])


def preprocess_train(
    image_bytes: tf.Tensor,
    image_size: int,
    seed: tf.Tensor,
    *,
    crop_area_min: float | None = None,
    resize_method: str = "bilinear",
    flip: bool = True,
    fast_decode: bool = False,
    max_pixels: int | None = None,
) -> tf.Tensor:
    """Decodes, randomly crops, resizes and flips an image for training, before augmentation.

    Shapes: scalar string, seed int64 [2] -> uint8 [S, S, 3] in [0, 255].
    Source: official preprocessing.py, or preprocess_legacy.py if resize_method is "legacy_bicubic".
    Deviates: resized values are rounded to uint8 where the official code truncates, so that
        training and evaluation have the same mean. Only the crop of a JPEG is decoded.

    Args:
        image_bytes: an encoded image, see `decode_image`.
        image_size: S in pixels.
        seed: int64 [2]; the crop and the flip are functions of it.
        crop_area_min: minimum share of the image's area in a crop, in (0, 1]; 1 is the whole image,
            squashed. None is the official share: 0.05, or 0.08 for "legacy_bicubic".
        resize_method: "bilinear" or "legacy_bicubic".
        flip: whether to mirror half of the images, left to right.
        fast_decode: decode a JPEG's crop with the fast transform, at 1/2, 1/4 or 1/8 of its size
            if that is still at least S; meant for photos of many megapixels.
        max_pixels: reject larger images before they are decoded; None: no limit.

    Raises:
        UserError: unknown resize_method, crop_area_min or image_size out of range.
        tf.errors.InvalidArgumentError: the bytes are not a valid image, or the image is too large.
    """
    _check_choice("resize_method", resize_method, tuple(RESIZE_METHODS))
    _check_size(image_size)
    if crop_area_min is None:
        crop_area_min = 0.08 if resize_method == "legacy_bicubic" else 0.05
    if not 0.0 < crop_area_min <= 1.0:
        raise UserError(f"crop_area_min must be in (0, 1], got {crop_area_min}; 1 means no crop")

    def window_of(size: tf.Tensor) -> tf.Tensor:
        return draw_crop(
            size, image_size, seed, crop_area_min=crop_area_min, resize_method=resize_method
        )

    def from_jpeg() -> tf.Tensor:
        size = tf.io.extract_jpeg_shape(image_bytes)[:2]
        if max_pixels is not None:
            size = check_pixels(size, max_pixels)
        return _decode_window(image_bytes, window_of(size), image_size, fast_decode)

    def from_other() -> tf.Tensor:
        image = decode_image(image_bytes, max_pixels)
        return _cut(image, window_of(tf.shape(image)[:2]))

    image = tf.cond(tf.io.is_jpeg(image_bytes), from_jpeg, from_other)
    image = RESIZE_METHODS[resize_method](image, image_size)
    # Bilinear interpolation stays in [0, 255].
    image = tf.cast(image + 0.5, tf.uint8) if resize_method == "bilinear" else _to_uint8(image)
    image = tf.ensure_shape(image, [image_size, image_size, 3])
    if flip:
        mirrored = tf.random.stateless_uniform([], seed + _FLIP) < 0.5
        image = tf.cond(mirrored, lambda: tf.reverse(image, axis=[1]), lambda: image)
    return image
