"""The operations as official_semantics.md 5.1 and 5.2 tell them, one image at a time, in NumPy."""

import numpy as np
import tensorflow as tf

GREY = 128


def blend(start, end, factor):
    """float32 arithmetic, fractions cut off."""
    start, end = np.float32(start), np.float32(end)
    return np.clip(start + np.float32(factor) * (end - start), 0, 255).astype(np.uint8)


def auto_contrast(image):
    result = image.copy()
    for channel in range(3):
        low, high = np.float32(image[..., channel].min()), np.float32(image[..., channel].max())
        if high > low:
            scale = np.float32(255) / (high - low)
            stretched = image[..., channel] * scale - low * scale
            result[..., channel] = np.clip(stretched, 0, 255).astype(np.uint8)
    return result


def equalize(image):
    result = image.copy()
    for channel in range(3):
        counts = np.bincount(image[..., channel].ravel(), minlength=256)
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        if step > 0:
            table = (np.concatenate([[0], np.cumsum(counts)[:-1]]) + step // 2) // step
            result[..., channel] = np.clip(table, 0, 255)[image[..., channel]]
    return result


def grey(image):
    red, green, blue = np.moveaxis(image.astype(np.float32) * np.float32(1 / 255), -1, 0)
    weights = (np.float32(weight) for weight in (0.2989, 0.5870, 0.1140))
    luma = sum(weight * channel for weight, channel in zip(weights, (red, green, blue)))
    return np.floor(luma * np.float32(255.5))


def smooth(image):
    """The 3x3 filter of Sharpness on whole numbers; the border is the image's."""
    padded = np.pad(image.astype(int), ((1, 1), (1, 1), (0, 0)))
    height, width = image.shape[:2]
    windows = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return (sum(windows) + 4 * windows[4]) // 13


def sharpness(image, factor):
    result = image.copy()
    inner = slice(1, -1), slice(1, -1)
    result[inner] = blend(smooth(image), image, factor)[inner]
    return result


def transform(image, matrix):
    """Pixel (x, y) of the result is the one at matrix * (x, y, 1); grey where there is none.

    A fourth channel of ones tells what lies inside.
    """
    channels = np.concatenate([image, np.ones_like(image[..., :1])], axis=-1)
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=channels[np.newaxis],
        transforms=np.float32([[*matrix, 0, 0]]),
        output_shape=image.shape[:2],
        fill_value=0.0,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )[0].numpy()
    return np.where(moved[..., 3:] == 1, moved[..., :3], np.uint8(GREY))


def rotation(image, degrees):
    bottom, right = (np.float32(side - 1) for side in image.shape[:2])
    radians = tf.constant(degrees, tf.float32) * np.float32(np.pi / 180)
    cos, sin = tf.cos(radians).numpy(), tf.sin(radians).numpy()
    x_offset = (right - (cos * right - sin * bottom)) / np.float32(2)
    y_offset = (bottom - (sin * right + cos * bottom)) / np.float32(2)
    return cos, -sin, x_offset, sin, cos, y_offset


def cutout(image, half_size, center):
    result = image.copy()
    rows, columns = (slice(max(c - half_size, 0), max(c + half_size, 0)) for c in center)
    result[rows, columns] = GREY
    return result


def apply(name, image, magnitude, sign, translate_const, cutout_const, center):
    """The official operation `name` at this magnitude."""
    level = magnitude / 10
    factor, signed, values = level * 1.8 + 0.1, sign * level, image.astype(int)
    bits = int(level * 4) if 1 <= int(level * 4) <= 8 else 1
    added = np.minimum(values + int(level * 110), 255)
    rules = {
        "AutoContrast": lambda: auto_contrast(image),
        "Equalize": lambda: equalize(image),
        "Invert": lambda: 255 - image,
        "Rotate": lambda: transform(image, rotation(image, signed * 30)),
        "Posterize": lambda: values >> (8 - bits) << (8 - bits),
        "Solarize": lambda: np.where(values < int(level * 256) % 256, values, 255 - values),
        "Color": lambda: blend(grey(image)[..., None], image, factor),
        "Contrast": lambda: blend(min(image[..., 0].size // 256, 255), image, factor),
        "Brightness": lambda: blend(0, image, factor),
        "Sharpness": lambda: sharpness(image, factor),
        "ShearX": lambda: transform(image, (1, signed * 0.3, 0, 0, 1, 0)),
        "ShearY": lambda: transform(image, (1, 0, 0, signed * 0.3, 1, 0)),
        "TranslateX": lambda: transform(image, (1, 0, signed * translate_const, 0, 1, 0)),
        "TranslateY": lambda: transform(image, (1, 0, 0, 0, 1, signed * translate_const)),
        "Cutout": lambda: cutout(image, int(level * cutout_const), center),
        "SolarizeAdd": lambda: np.where(values < 128, added, values),
    }
    return rules[name]().astype(np.uint8)
