"""EfficientNetV2 in Keras: the network, its weights and how it learns."""

from efficientnetv2.from_config import build_from_config
from efficientnetv2.model import build_backbone, build_model
from efficientnetv2.switching import set_normalization, set_padding
from hparams.architecture_tables import get_spec, list_models
from hparams.architectures import Blocks, ModelSpec, scale_spec
from hparams.spec_files import save_spec
from hparams.spec_settings import spec_from_config

__all__ = [
    "Blocks",
    "LoadReport",
    "ModelSpec",
    "build_backbone",
    "build_from_config",
    "build_model",
    "get_spec",
    "list_models",
    "load_weights",
    "save_spec",
    "scale_spec",
    "set_normalization",
    "set_padding",
    "spec_from_config",
]


def __getattr__(name: str):
    """Loads what needs TensorFlow on first use, so that the network alone does not."""
    if name in ("LoadReport", "load_weights"):
        from efficientnetv2 import weights

        return getattr(weights, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
