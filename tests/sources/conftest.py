"""Tests beside the libraries whose weights we load; each module only where they are installed."""

import importlib.util

NEEDS = {
    "test_keras_efficientnet_v2.py": ("keras_efficientnet_v2",),
    "test_timm.py": ("torch", "torchvision", "timm"),
    "test_torch_load.py": ("torch",),
    "test_torchvision.py": ("torch", "torchvision"),
}
collect_ignore = [
    name for name, needs in NEEDS.items() if not all(map(importlib.util.find_spec, needs))
]


def _import_torchvision():
    """Imports it even where its compiled operators, of detection, do not load.

    PyPI's wheel has them for CUDA, and with a PyTorch for the CPU stops over their absence.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        import torchvision  # noqa: F401


if "test_torchvision.py" not in collect_ignore:
    _import_torchvision()
