"""Table of published weights: archive URLs and the preprocessing that each network expects."""

import dataclasses

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams import nearest
from efficientnetv2.weights.stored import Preprocessing

ROOT_URL = "https://storage.googleapis.com/cloud-tpu-checkpoints/efficientnet"
TAGS = ("imagenet", "imagenet21k", "imagenet21k-ft1k", "jft")
# Evaluation sizes in pixels.
_V2_SIZES = {
    "efficientnetv2-b0": 224,
    "efficientnetv2-b1": 240,
    "efficientnetv2-b2": 260,
    "efficientnetv2-b3": 300,
    "efficientnetv2-s": 384,
    "efficientnetv2-m": 480,
    "efficientnetv2-l": 480,
    "efficientnetv2-xl": 512,
}
_NO_IMAGENET = ("efficientnetv2-xl", "efficientnet-l2", "efficientnet-l2_475")
_NO_JFT = ("efficientnet-b8",)
# crop, resize_method, normalization
_V2 = ("v2", "bilinear", "centered")
_FINE_TUNED = ("whole", "bilinear", "inception")
_LEGACY = ("v1", "legacy_bicubic", "imagenet")
_ADVPROP = ("v1", "legacy_bicubic", "inception")
# {archive name: (sha256, bytes)}, both taken from a trusted download, whose `.sha256` file in the
# cache contains the checksum. Empty so far; `download.py` records each checksum on first use.
_KNOWN: dict[str, tuple[str, int]] = {}


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """One published archive. `sha256` and `num_bytes` are None if we do not know them."""

    model_name: str
    tag: str
    url: str
    num_classes: int
    preprocessing: Preprocessing
    sha256: str | None = None
    num_bytes: int | None = None


_V1_SIZES = {
    "efficientnet-b0": 224,
    "efficientnet-b1": 240,
    "efficientnet-b2": 260,
    "efficientnet-b3": 300,
    "efficientnet-b4": 380,
    "efficientnet-b5": 456,
    "efficientnet-b6": 528,
    "efficientnet-b7": 600,
    "efficientnet-b8": 672,
    "efficientnet-l2": 800,
    "efficientnet-l2_475": 475,  # The architecture of L2, trained and evaluated at 475.
}


def _row(model_name, tag, path, num_classes, image_size, preparation) -> Pretrained:
    sha256, num_bytes = _KNOWN.get(path.rsplit("/", 1)[-1], (None, None))
    preprocessing = Preprocessing(image_size, *preparation)
    url = f"{ROOT_URL}/{path}"
    return Pretrained(model_name, tag, url, num_classes, preprocessing, sha256, num_bytes)


def _v2_rows(name: str, size: int) -> list[Pretrained]:
    own = _LEGACY if name.startswith("efficientnetv2-b") else _V2
    rows = [
        _row(name, "imagenet", f"v2/{name}.tgz", 1000, size, own),
        _row(name, "imagenet21k", f"v2/{name}-21k.tgz", 21_843, 224, _V2),
        _row(name, "imagenet21k-ft1k", f"v2/{name}-21k-ft1k.tgz", 1000, size, _FINE_TUNED),
    ]
    return rows[1:] if name in _NO_IMAGENET else rows


def _v1_rows(name: str, size: int) -> list[Pretrained]:
    rows = []
    if name not in _NO_IMAGENET:
        rows.append(_row(name, "imagenet", f"advprop/{name}.tar.gz", 1000, size, _ADVPROP))
    if name not in _NO_JFT:
        path = f"noisystudent/noisy_student_{name}.tar.gz"
        rows.append(_row(name, "jft", path, 1000, size, _LEGACY))
    return rows


PRETRAINED: dict[tuple[str, str], Pretrained] = {
    (row.model_name, row.tag): row
    for make_rows, sizes in ((_v2_rows, _V2_SIZES), (_v1_rows, _V1_SIZES))
    for name, size in sizes.items()
    for row in make_rows(name, size)
}
"""Every published archive by (model name, tag).

Source: addresses, sizes and classes: the official table and model configurations (a V2 model's
"imagenet21k" is at its training size, 224). Crop, resizing and normalisation follow from the
`augname` that an archive was trained with: none ("v2"), `ft` ("whole") or `effnetv1_autoaug` ("v1"
with TF1's bicubic). So the B models' 21k and 21k-ft1k weights differ from their 1k siblings.
Deviates: V1 "imagenet" weights were trained with AdvProp on x * 2 / 255 - 1, which their own
repository asks for (`--advprop_preprocessing`); the official V2 code evaluates them with mean and
standard deviation. For "efficientnet-l2" that code fetches the archive of "efficientnet-l2_475".
"""


def list_pretrained() -> tuple[Pretrained, ...]:
    """Returns all rows, EfficientNetV2 first."""
    return tuple(PRETRAINED.values())


def get_pretrained(model_name: str, tag: str) -> Pretrained:
    """Returns the row of a model's weights.

    Raises: UserError for an unknown tag, or for weights that were not published, listing those
    that were.
    """
    if tag not in TAGS:
        raise UserError(f"unknown weights {tag!r}{nearest(tag, TAGS)}")
    if (model_name, tag) not in PRETRAINED:
        tags = [row.tag for row in list_pretrained() if row.model_name == model_name]
        if tags:
            raise UserError(f"{model_name} has no {tag!r} weights; it has {', '.join(tags)}")
        names = [row.model_name for row in list_pretrained() if row.tag == tag]
        raise UserError(f"no {tag!r} weights for model {model_name!r}{nearest(model_name, names)}")
    return PRETRAINED[model_name, tag]
