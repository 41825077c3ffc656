"""How images were prepared for a set of weights: what has to travel with them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How the images were prepared on which the weights were published or evaluated.

    Units: image_size in pixels. `crop` ("v2", "v1", "whole") and `resize_method` ("bilinear",
    "legacy_bicubic") are those of `datasets/preprocess.py`. `normalization` says what pixels in
    [0, 255] become: "centered" is (x - 128) / 128, "imagenet" subtracts the ImageNet mean and
    divides by its standard deviation, "inception" is (x - 127.5) / 127.5. None is what a file does
    not tell.
    """

    image_size: int | None
    crop: str | None
    resize_method: str | None
    normalization: str | None
