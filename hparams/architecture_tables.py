"""The named architectures. Source: official block tables, and the papers' where a row says so."""

import dataclasses

from hparams.architectures import Blocks, ModelSpec
from hparams.errors import UserError
from hparams.overrides import nearest
from hparams.spec_files import is_spec_file, load_spec


def _fused(repeats, stride, expand, channels_in, channels, kernel=3) -> Blocks:
    return Blocks("fused", repeats, kernel, stride, expand, channels_in, channels)


def _mbconv(repeats, stride, expand, channels_in, channels, kernel=3) -> Blocks:
    row = Blocks("mbconv", repeats, kernel, stride, expand, channels_in, channels)
    return dataclasses.replace(row, se_ratio=0.25)


_V1 = (  # Source: arXiv 1905.11946, Table 1.
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
_SMALL = (
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
_LARGE = (
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
    """V1, its first `fused_rows` rows turned into Fused-MBConv of the same kernel, without SE."""
    fused = (dataclasses.replace(row, kind="fused", se_ratio=0.0) for row in _V1[:fused_rows])
    return ModelSpec(
        name,
        (*fused, *_V1[fused_rows:]),
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
        ModelSpec("efficientnetv2-s", _SMALL, dropout_rate=0.2),
        ModelSpec("efficientnetv2-m", _MEDIUM, dropout_rate=0.3),
        ModelSpec("efficientnetv2-l", _LARGE, dropout_rate=0.4),
        ModelSpec("efficientnetv2-xl", _XLARGE, dropout_rate=0.4),
        # The S of the paper's first version, Table 4 there.
        ModelSpec(
            "efficientnetv2-s-arxiv-v1",
            (*_SMALL[:-1], _mbconv(15, 2, 6, 160, 272)),
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
    """Returns the names that `get_spec` knows, family by family."""
    return list(_SPECS)


def get_spec(name: str) -> ModelSpec:
    """Returns a named architecture, or that of a JSON file, see `spec_files`.

    Raises: UserError for an unknown name, naming the nearest, or for a bad file.
    """
    if is_spec_file(name):
        return load_spec(name)
    if name not in _SPECS:
        raise UserError(f"unknown model {name!r}{nearest(name, _SPECS)}")
    return _SPECS[name]
