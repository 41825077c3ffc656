"""Named models: architectures, default settings, and published sizes and costs.

Source: official block tables, and the papers' where a row says so. FLOPs are multiply-adds. The
sources do not state at which image size they counted; the sizes here are those of the official
evaluation, at which our counts match. docs/deviations.md explains the exceptions.
"""

import dataclasses

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams.config import ModelConfig
from efficientnetv2.hparams.overrides import nearest
from efficientnetv2.hparams.spec import Blocks, ModelSpec, check_spec, is_spec_file, load_spec

TOLERANCE = 0.03  # Sources count multiply-adds slightly differently, and round.
_README = "README of google/automl/efficientnetv2"
_V1_PAPER = "arXiv 1905.11946, Table 2"
_TABLE_3 = "arXiv 2104.00298, Table 3"
_TABLE_7 = "arXiv 2104.00298, Table 7"
_TABLE_7_QUOTED = "arXiv 2104.00298, Table 7, not compared with a copy of the paper"
_FIRST_VERSION = "arXiv 2104.00298 version 1, not compared with a copy of the paper"
_ADVPROP = "arXiv 1911.09665, not compared with a copy of the paper"
_NOISY_STUDENT = "arXiv 1911.04252, not compared with a copy of the paper"


def _fused(repeats, stride, expand, channels_in, channels, kernel=3) -> Blocks:
    return Blocks("fused", repeats, kernel, stride, expand, channels_in, channels)


def _mbconv(repeats, stride, expand, channels_in, channels, kernel=3) -> Blocks:
    row = Blocks("mbconv", repeats, kernel, stride, expand, channels_in, channels)
    return dataclasses.replace(row, se_ratio=0.25)


_V1_BLOCKS = (  # Source: arXiv 1905.11946, Table 1.
    _mbconv(1, 1, 1, 32, 16),
    _mbconv(2, 2, 6, 16, 24),
    _mbconv(2, 2, 6, 24, 40, kernel=5),
    _mbconv(3, 2, 6, 40, 80),
    _mbconv(3, 1, 6, 80, 112, kernel=5),
    _mbconv(4, 2, 6, 112, 192, kernel=5),
    _mbconv(1, 1, 6, 192, 320),
)
_BASE = (
    _fused(1, 1, 1, 32, 16),
    _fused(2, 2, 4, 16, 32),
    _fused(2, 2, 4, 32, 48),
    _mbconv(3, 2, 4, 48, 96),
    _mbconv(5, 1, 6, 96, 112),
    _mbconv(8, 2, 6, 112, 192),
)
_SMALL_BLOCKS = (
    _fused(2, 1, 1, 24, 24),
    _fused(4, 2, 4, 24, 48),
    _fused(4, 2, 4, 48, 64),
    _mbconv(6, 2, 4, 64, 128),
    _mbconv(9, 1, 6, 128, 160),
    _mbconv(15, 2, 6, 160, 256),
)
_MEDIUM = (
    _fused(3, 1, 1, 24, 24),
    _fused(5, 2, 4, 24, 48),
    _fused(5, 2, 4, 48, 80),
    _mbconv(7, 2, 4, 80, 160),
    _mbconv(14, 1, 6, 160, 176),
    _mbconv(18, 2, 6, 176, 304),
    _mbconv(5, 1, 6, 304, 512),
)
_LARGE_BLOCKS = (
    _fused(4, 1, 1, 32, 32),
    _fused(7, 2, 4, 32, 64),
    _fused(7, 2, 4, 64, 96),
    _mbconv(10, 2, 4, 96, 192),
    _mbconv(19, 1, 6, 192, 224),
    _mbconv(25, 2, 6, 224, 384),
    _mbconv(7, 1, 6, 384, 640),
)
_XLARGE = (
    _fused(4, 1, 1, 32, 32),
    _fused(8, 2, 4, 32, 64),
    _fused(8, 2, 4, 64, 96),
    _mbconv(16, 2, 4, 96, 192),
    _mbconv(24, 1, 6, 192, 256),
    _mbconv(32, 2, 6, 256, 512),
    _mbconv(8, 1, 6, 512, 640),
)


def _v2_base(name, width, depth, dropout_rate) -> ModelSpec:
    return ModelSpec(name, _BASE, width, depth, dropout_rate=dropout_rate, normalization="imagenet")


def _v1(name, width, depth, dropout_rate, fused_rows=0) -> ModelSpec:
    """Returns V1, with Fused-MBConv of the same kernel, without SE, in the first `fused_rows`."""
    fused = (
        dataclasses.replace(row, kind="fused", se_ratio=0.0) for row in _V1_BLOCKS[:fused_rows]
    )
    return ModelSpec(
        name,
        (*fused, *_V1_BLOCKS[fused_rows:]),
        width,
        depth,
        dropout_rate=dropout_rate,
        normalization="imagenet",
        keep_90_percent=True,
    )


_SPECS = {
    spec.name: spec
    for spec in (
        _v2_base("efficientnetv2-b0", 1.0, 1.0, dropout_rate=0.2),
        _v2_base("efficientnetv2-b1", 1.0, 1.1, dropout_rate=0.2),
        _v2_base("efficientnetv2-b2", 1.1, 1.2, dropout_rate=0.3),
        _v2_base("efficientnetv2-b3", 1.2, 1.4, dropout_rate=0.3),
        ModelSpec("efficientnetv2-s", _SMALL_BLOCKS, dropout_rate=0.2),
        ModelSpec("efficientnetv2-m", _MEDIUM, dropout_rate=0.3),
        ModelSpec("efficientnetv2-l", _LARGE_BLOCKS, dropout_rate=0.4),
        ModelSpec("efficientnetv2-xl", _XLARGE, dropout_rate=0.4),
        # S as in Table 4 of the paper's first version.
        ModelSpec(
            "efficientnetv2-s-arxiv-v1",
            (*_SMALL_BLOCKS[:-1], _mbconv(15, 2, 6, 160, 272)),
            head_channels=1792,
            dropout_rate=0.2,
        ),
        _v1("efficientnet-b0", 1.0, 1.0, dropout_rate=0.2),
        _v1("efficientnet-b1", 1.0, 1.1, dropout_rate=0.2),
        _v1("efficientnet-b2", 1.1, 1.2, dropout_rate=0.3),
        _v1("efficientnet-b3", 1.2, 1.4, dropout_rate=0.3),
        _v1("efficientnet-b4", 1.4, 1.8, dropout_rate=0.4),
        _v1("efficientnet-b5", 1.6, 2.2, dropout_rate=0.4),
        _v1("efficientnet-b6", 1.8, 2.6, dropout_rate=0.5),
        _v1("efficientnet-b7", 2.0, 3.1, dropout_rate=0.5),
        _v1("efficientnet-b8", 2.2, 3.6, dropout_rate=0.5),
        _v1("efficientnet-l2_475", 4.3, 5.3, dropout_rate=0.5),  # L2, evaluated at 475 pixels.
        _v1("efficientnet-l2", 4.3, 5.3, dropout_rate=0.5),
        # The paper's Table 3; without fused rows it is efficientnet-b4.
        _v1("efficientnet-b4-fused-1-3", 1.4, 1.8, dropout_rate=0.4, fused_rows=3),
        _v1("efficientnet-b4-fused-1-5", 1.4, 1.8, dropout_rate=0.4, fused_rows=5),
        _v1("efficientnet-b4-fused-1-7", 1.4, 1.8, dropout_rate=0.4, fused_rows=7),
    )
}


def list_models() -> list[str]:
    """Returns the names that `get_spec` accepts, grouped by family.

    Example:
        assert "efficientnetv2-s" in effnet.list_models()
    """
    return list(_SPECS)


def get_spec(name: str) -> ModelSpec:
    """Returns a named architecture, or that of a JSON file written by `save_spec`.

    Raises: UserError for an unknown name, naming the nearest, or for an invalid file.

    Example:
        effnet.get_spec("efficientnetv2-s").scaled_blocks()
    """
    if is_spec_file(name):
        return load_spec(name)
    if name not in _SPECS:
        raise UserError(f"unknown model {name!r}{nearest(name, _SPECS)}")
    return _SPECS[name]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A published number: the digits as printed in its source, times `unit`."""

    digits: str
    unit: int

    @property
    def value(self) -> float:
        """The figure as a number."""
        return float(self.digits) * self.unit

    def rounds(self, count: int) -> bool:
        """Returns whether `count` rounds to the figure; a half may round either way."""
        decimals = len(self.digits.partition(".")[2])
        return abs(count / self.unit - float(self.digits)) <= 0.5 * 10**-decimals + 1e-9

    def difference(self, count: int) -> float:
        """Returns how much larger `count` is, as a fraction of the figure."""
        return count / self.value - 1


@dataclasses.dataclass(frozen=True)
class Published:
    """Figures that one source reports for one architecture."""

    source: str
    image_size: int  # Pixels, for which `macs` is counted.
    params: Figure
    macs: Figure | None

    def params_agree(self, *counts: int) -> bool:
        """Returns whether one of `counts` rounds to the figure, as sources count differently."""
        return any(self.params.rounds(count) for count in counts)

    def macs_agree(self, count: int) -> bool | None:
        """Returns whether `count` rounds to the figure or is within 3% of it; None without one."""
        if self.macs is None:
            return None
        return self.macs.rounds(count) or abs(self.macs.difference(count)) <= TOLERANCE


_ROWS = (  # Model, image size, parameters in millions, FLOPs in billions, source.
    ("efficientnetv2-b0", 224, "7.1", "0.72", _README),
    ("efficientnetv2-b1", 240, "8.1", "1.2", _README),
    ("efficientnetv2-b2", 260, "10.1", "1.7", _README),
    ("efficientnetv2-b3", 300, "14.4", "3.0", _README),
    ("efficientnetv2-s", 384, "21.5", "8.4", _README),
    ("efficientnetv2-s", 384, "22", "8.8", _TABLE_7_QUOTED),
    ("efficientnetv2-m", 480, "54.1", "24.7", _README),
    ("efficientnetv2-m", 480, "54", "24", _TABLE_7),
    ("efficientnetv2-l", 480, "119.5", "56.3", _README),
    ("efficientnetv2-l", 480, "120", "53", _TABLE_7_QUOTED),
    ("efficientnetv2-xl", 512, "208", "94", _TABLE_7),
    ("efficientnetv2-s-arxiv-v1", 384, "24", "8.8", _FIRST_VERSION),
    ("efficientnet-b0", 224, "5.3", "0.39", _V1_PAPER),
    ("efficientnet-b1", 240, "7.8", "0.70", _V1_PAPER),
    ("efficientnet-b2", 260, "9.2", "1.0", _V1_PAPER),
    ("efficientnet-b3", 300, "12", "1.8", _V1_PAPER),
    ("efficientnet-b4", 380, "19", "4.2", _V1_PAPER),
    ("efficientnet-b4", 380, "19.3", "4.5", _TABLE_3),
    ("efficientnet-b5", 456, "30", "9.9", _V1_PAPER),
    ("efficientnet-b6", 528, "43", "19", _V1_PAPER),
    ("efficientnet-b7", 600, "66", "37", _V1_PAPER),
    ("efficientnet-b8", 672, "87", None, _ADVPROP),
    ("efficientnet-l2_475", 475, "480", None, _NOISY_STUDENT),
    ("efficientnet-l2", 800, "480", None, _NOISY_STUDENT),
    ("efficientnet-b4-fused-1-3", 380, "20.0", "7.5", _TABLE_3),
    ("efficientnet-b4-fused-1-5", 380, "43.4", "21.3", _TABLE_3),
    ("efficientnet-b4-fused-1-7", 380, "132.0", "34.4", _TABLE_3),
)


def published_figures(model_name: str) -> tuple[Published, ...]:
    """Returns the published figures of a named architecture, empty if there are none."""
    return tuple(
        Published(
            source=source,
            image_size=image_size,
            params=Figure(params, 10**6),
            macs=Figure(macs, 10**9) if macs else None,
        )
        for name, image_size, params, macs, source in _ROWS
        if name == model_name
    )


@dataclasses.dataclass(frozen=True)
class Strength:
    """Image size and regularization in the last stage; `first_*`: the paper's first stage."""

    size: int  # pixels
    magnitude: float
    mixup: float
    dropout: float
    cutmix: float = 0.0
    first_size: int = 128
    first_dropout: float = 0.1


@dataclasses.dataclass(frozen=True)
class ModelRow:
    """Training and evaluation settings of a model. Source: official configs; paper Table 6."""

    eval_size: int  # pixels
    paper: Strength
    official: Strength
    eval_crop: str = "v2"
    resize_method: str = "bilinear"
    crop_area_min: float = 0.05
    stages: int = 4
    augname: str = "randaug"


def _b_model(eval_size: int, size: int, dropout: float, stages: int = 4) -> ModelRow:
    # The paper does not train B models: sizes, last dropout and AutoAugment are official, the rest
    # follows S. The magnitude applies only if RandAugment is chosen.
    strength = Strength(size, magnitude=10, mixup=0, dropout=dropout)
    return ModelRow(eval_size, strength, strength, "v1", "legacy_bicubic", 0.08, stages, "autoaug")


def _v1_model(eval_size: int, dropout: float) -> ModelRow:
    # V1 is the baseline, trained at one size: officially 0.8 of the evaluation size.
    return _b_model(eval_size, int(eval_size * 0.8) // 16 * 16, dropout, stages=1)


_SMALL_ROW = ModelRow(
    384,
    paper=Strength(300, magnitude=15, mixup=0, dropout=0.3),
    official=Strength(300, magnitude=10, mixup=0, dropout=0.2),
)
_LARGE_STRENGTH = Strength(380, magnitude=25, mixup=0.5, dropout=0.5)
_LARGE_OFFICIAL = Strength(384, magnitude=20, mixup=0.5, dropout=0.4, cutmix=0.5)

MODELS = {
    "efficientnetv2-b0": _b_model(eval_size=224, size=192, dropout=0.2),
    "efficientnetv2-b1": _b_model(eval_size=240, size=192, dropout=0.2),
    "efficientnetv2-b2": _b_model(eval_size=260, size=208, dropout=0.3),
    "efficientnetv2-b3": _b_model(eval_size=300, size=240, dropout=0.3),
    "efficientnetv2-s": _SMALL_ROW,
    "efficientnetv2-m": ModelRow(
        480,
        paper=Strength(380, magnitude=20, mixup=0.2, dropout=0.4),
        official=Strength(384, magnitude=15, mixup=0.2, dropout=0.3, cutmix=0.2),
    ),
    "efficientnetv2-l": ModelRow(480, paper=_LARGE_STRENGTH, official=_LARGE_OFFICIAL),
    "efficientnetv2-xl": ModelRow(512, paper=_LARGE_STRENGTH, official=_LARGE_OFFICIAL),
    "efficientnetv2-s-arxiv-v1": _SMALL_ROW,
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
# Architectures of Keras ("keras/ResNet50") or of a JSON file: the usual size of the former, with
# the regularization of S. The paper's Table 12 evaluates ResNets at 224 and at 380.
_OTHER = Strength(224, magnitude=15, mixup=0, dropout=0.2)
OTHER_MODEL = ModelRow(224, paper=_OTHER, official=_OTHER)


def model_row(model_name: str) -> ModelRow:
    """Returns the training and evaluation settings of a model.

    Raises: UserError for an unknown name, naming the nearest.
    """
    if model_name.startswith("keras/") or model_name.endswith(".json"):
        return OTHER_MODEL
    if model_name not in MODELS:
        raise UserError(f"unknown model {model_name!r}{nearest(model_name, MODELS)}")
    return MODELS[model_name]


def model_layer(model_name: str, schedule: str) -> dict:
    """Returns the settings that a named model implies under `schedule`.

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


def spec_from_config(model_config: ModelConfig) -> ModelSpec:
    """Returns the specification of a `ModelConfig`: the named one with its overrides.

    A setting at its default in `ModelConfig` keeps the value of the specification, such as a JSON
    file, except dropout, which is always taken from the config, as it rises from stage to stage.
    Raises: UserError for an unknown name, or incompatible settings.
    """
    spec = get_spec(model_config.model_name)
    given = dict(given_settings(model_config).values())
    spec = dataclasses.replace(spec, dropout_rate=model_config.dropout_rate, **given)
    return check_spec(spec, model_config.model_name)


def given_settings(model: ModelConfig) -> dict[str, tuple[str, object]]:
    """Returns {key: (field of `ModelSpec`, value)} of the settings that differ from the default."""
    defaults = _settings(ModelConfig())
    return {key: pair for key, pair in _settings(model).items() if pair != defaults[key]}


def _settings(model: ModelConfig) -> dict[str, tuple[str, object]]:
    """Returns {key: (field of `ModelSpec`, value)}."""
    return {
        "width_coefficient": ("width_coefficient", model.width_coefficient),
        "depth_coefficient": ("depth_coefficient", model.depth_coefficient),
        "stem_stride": ("stem_stride", model.stem_stride),
        "output_stride": ("output_stride", model.output_stride),
        "normalization": ("normalization", model.normalization),
        "padding": ("padding", model.padding),
        "act_fn": ("activation", model.act_fn),
        "bn_type": ("norm", "group" if model.bn_type == "gn" else "batch"),
        "gn_groups": ("gn_groups", model.gn_groups),
        "bn_momentum": ("bn_momentum", model.bn_momentum),
        "bn_epsilon": ("bn_epsilon", model.bn_epsilon),
        "survival_prob": ("drop_path_rate", 1 - model.survival_prob),
    }
