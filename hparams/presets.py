"""The values that a named model brings along; those of the data set replace them."""

import dataclasses

from hparams.errors import UserError
from hparams.overrides import nearest


@dataclasses.dataclass(frozen=True)
class Strength:
    """What rises over the stages, at its end; `first_*` is where the paper's schedule starts."""

    size: int  # pixels
    magnitude: float
    mixup: float
    dropout: float
    cutmix: float = 0.0
    first_size: int = 128
    first_dropout: float = 0.1


@dataclasses.dataclass(frozen=True)
class ModelRow:
    """How a model is trained and evaluated. Source: official configs; paper Table 6."""

    eval_size: int  # pixels
    paper: Strength
    official: Strength
    eval_crop: str = "v2"
    resize_method: str = "bilinear"
    crop_area_min: float = 0.05
    stages: int = 4
    augname: str = "randaug"


def _b_model(eval_size: int, size: int, dropout: float, stages: int = 4) -> ModelRow:
    # The paper trains no B models: sizes, last dropout and AutoAugment are official, the rest
    # follows S. The magnitude is for those who choose RandAugment.
    strength = Strength(size, magnitude=10, mixup=0, dropout=dropout)
    return ModelRow(eval_size, strength, strength, "v1", "legacy_bicubic", 0.08, stages, "autoaug")


def _v1_model(eval_size: int, dropout: float) -> ModelRow:
    # V1 is the baseline, trained at one size: official, 0.8 of the evaluation's.
    return _b_model(eval_size, int(eval_size * 0.8) // 16 * 16, dropout, stages=1)


_SMALL = ModelRow(
    384,
    paper=Strength(300, magnitude=15, mixup=0, dropout=0.3),
    official=Strength(300, magnitude=10, mixup=0, dropout=0.2),
)
_LARGE = Strength(380, magnitude=25, mixup=0.5, dropout=0.5)
_LARGE_OFFICIAL = Strength(384, magnitude=20, mixup=0.5, dropout=0.4, cutmix=0.5)

MODELS = {
    "efficientnetv2-b0": _b_model(eval_size=224, size=192, dropout=0.2),
    "efficientnetv2-b1": _b_model(eval_size=240, size=192, dropout=0.2),
    "efficientnetv2-b2": _b_model(eval_size=260, size=208, dropout=0.3),
    "efficientnetv2-b3": _b_model(eval_size=300, size=240, dropout=0.3),
    "efficientnetv2-s": _SMALL,
    "efficientnetv2-m": ModelRow(
        480,
        paper=Strength(380, magnitude=20, mixup=0.2, dropout=0.4),
        official=Strength(384, magnitude=15, mixup=0.2, dropout=0.3, cutmix=0.2),
    ),
    "efficientnetv2-l": ModelRow(480, paper=_LARGE, official=_LARGE_OFFICIAL),
    "efficientnetv2-xl": ModelRow(512, paper=_LARGE, official=_LARGE_OFFICIAL),
    "efficientnetv2-s-arxiv-v1": _SMALL,
    "efficientnet-b0": _v1_model(224, dropout=0.2),
    "efficientnet-b1": _v1_model(240, dropout=0.2),
    "efficientnet-b2": _v1_model(260, dropout=0.3),
    "efficientnet-b3": _v1_model(300, dropout=0.3),
    "efficientnet-b4": _v1_model(380, dropout=0.4),
    "efficientnet-b5": _v1_model(456, dropout=0.4),
    "efficientnet-b6": _v1_model(528, dropout=0.5),
    "efficientnet-b7": _v1_model(600, dropout=0.5),
    "efficientnet-b8": _v1_model(672, dropout=0.5),
    "efficientnet-l2_475": _v1_model(475, dropout=0.5),
    "efficientnet-l2": _v1_model(800, dropout=0.5),
    "efficientnet-b4-fused-1-3": _v1_model(380, dropout=0.4),
    "efficientnet-b4-fused-1-5": _v1_model(380, dropout=0.4),
    "efficientnet-b4-fused-1-7": _v1_model(380, dropout=0.4),
}
# An architecture of Keras ("keras/ResNet50") or of a JSON file: at the size that is usual for the
# first, with the strengths of S. The paper's Table 12 evaluates ResNets at 224 and at 380.
_OTHER = Strength(224, magnitude=15, mixup=0, dropout=0.2)
OTHER_MODEL = ModelRow(224, paper=_OTHER, official=_OTHER)


def model_row(model_name: str) -> ModelRow:
    """Returns how a model is trained and evaluated.

    Raises: UserError for an unknown name, naming the nearest.
    """
    if model_name.startswith("keras/") or model_name.endswith(".json"):
        return OTHER_MODEL
    if model_name not in MODELS:
        raise UserError(f"unknown model {model_name!r}{nearest(model_name, MODELS)}")
    return MODELS[model_name]


def model_layer(model_name: str, schedule: str) -> dict:
    """Returns the settings that a named model brings, for the schedule in force.

    Raises: UserError for an unknown name, naming the nearest.
    """
    row = model_row(model_name)
    end = row.official if schedule == "official" else row.paper
    return {
        "model": {
            "model_name": model_name,
            "dropout_rate": end.dropout,
            "dropout_base": end.first_dropout,
        },
        "train": {"isize": end.size, "stages": row.stages},
        "eval": {"isize": row.eval_size},
        "data": {
            "ibase": end.first_size,
            "ram": end.magnitude,
            "mixup_alpha": end.mixup,
            "cutmix_alpha": end.cutmix,
            "augname": row.augname,
            "eval_crop": row.eval_crop,
            "resize_method": row.resize_method,
            "crop_area_min": row.crop_area_min,
        },
    }
