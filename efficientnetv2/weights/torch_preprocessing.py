"""What timm and torchvision say of the images that their weights expect.

Their evaluations resize with antialiasing, which none of ours does, so crop and resizing are not
taken over.
"""

from efficientnetv2.preprocessing_layers import IMAGENET_MEAN, IMAGENET_STD
from efficientnetv2.weights.preprocessing import Preprocessing

_KINDS = {
    (IMAGENET_MEAN, IMAGENET_STD): "imagenet",
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)): "inception",
}
_V2_L_BLOCKS = 79


def of_timm(config: dict) -> Preprocessing | None:
    """Reads the `pretrained_cfg` of a `config.json` of timm's hub; None if it has none."""
    described = config.get("pretrained_cfg")
    if not isinstance(described, dict):
        return None
    size = described.get("test_input_size") or described.get("input_size")
    mean_std = tuple(tuple(described.get(key) or ()) for key in ("mean", "std"))
    return Preprocessing(
        image_size=size[-1] if isinstance(size, list) and size else None,
        crop=None,
        resize_method=None,
        normalization=_KINDS.get(mean_std),
    )


def of_torchvision(blocks: int, num_classes: int | None) -> Preprocessing:
    """Tells by the number of blocks. Source: torchvision's presets.

    All are trained on the ImageNet mean and standard deviation, but the published V2-L, a port of
    the official weights.
    """
    ported = blocks == _V2_L_BLOCKS and num_classes == 1000
    return Preprocessing(None, None, None, "inception" if ported else "imagenet")
