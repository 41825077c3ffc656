"""EfficientNetV2 in Keras and TensorFlow: train, evaluate, predict, export."""

import importlib
import pathlib

_HOMES = {
    "Blocks": "efficientnetv2.hparams.spec",
    "LoadReport": "efficientnetv2.weights.load",
    "ModelSpec": "efficientnetv2.hparams.spec",
    "UserError": "efficientnetv2.common.errors",
    "build_backbone": "efficientnetv2.weights.build",
    "build_from_config": "efficientnetv2.network.model",
    "build_model": "efficientnetv2.weights.build",
    "get_spec": "efficientnetv2.hparams.models",
    "list_models": "efficientnetv2.hparams.models",
    "load_weights": "efficientnetv2.weights.load",
    "save_spec": "efficientnetv2.hparams.spec",
    "scale_spec": "efficientnetv2.hparams.spec",
    "set_normalization": "efficientnetv2.network.layers",
    "set_padding": "efficientnetv2.network.layers",
    "spec_from_config": "efficientnetv2.hparams.models",
}
__all__ = list(_HOMES)

# In a checkout datasets/, hparams/ and export/ lie at its root, beside this folder.
_ROOT = pathlib.Path(__file__).resolve().parents[1]
if (_ROOT / "pyproject.toml").is_file() and (_ROOT / "hparams").is_dir():
    __path__.append(str(_ROOT))


def __getattr__(name: str):
    """Imports on first use, so that a configuration needs no Keras and a network no TensorFlow."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
