"""The first layer of a network: what pixels in [0, 255] become."""

import keras

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # Of pixels in [0, 1], red, green, blue; official constants.
IMAGENET_STD = (0.229, 0.224, 0.225)


def scale_and_offset(kind: str, channels: int = 3):
    """Returns what pixels in [0, 255] are multiplied by, and what is added, as weights expect.

    Both are numbers, or lists with one per channel. For other than three channels "imagenet" takes,
    for one, the mean over the colours, and else repeats them in turn, as the stem's weights are
    repeated.
    """
    if kind == "centered":
        return 1 / 128, -1.0
    if kind == "inception":
        return 1 / 127.5, -1.0
    means = [IMAGENET_MEAN[i % 3] for i in range(channels)]
    stds = [IMAGENET_STD[i % 3] for i in range(channels)]
    if channels == 1:
        means, stds = [sum(IMAGENET_MEAN) / 3], [sum(IMAGENET_STD) / 3]
    scale = [1 / (255 * std) for std in stds]
    return scale, [-mean / std for mean, std in zip(means, stds)]


def normalization(kind: str, channels: int = 3):
    """Returns the layer that turns pixels in [0, 255] into what weights expect."""
    scale, offset = scale_and_offset(kind, channels)
    return keras.layers.Rescaling(scale, offset=offset, name="normalization")
