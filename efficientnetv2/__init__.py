"""EfficientNetV2 in Keras: the network, its weights and how it learns."""

from efficientnetv2.architectures import Blocks, ModelSpec, get_spec, list_models
from efficientnetv2.model import build_model, spec_from_config

__all__ = [
    "Blocks",
    "LoadReport",
    "ModelSpec",
    "build_model",
    "get_spec",
    "list_models",
    "load_weights",
    "spec_from_config",
]


def __getattr__(name: str):
    """Loads what needs TensorFlow on first use, so that the network alone does not."""
    if name in ("LoadReport", "load_weights"):
        from efficientnetv2 import weights

        return getattr(weights, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
