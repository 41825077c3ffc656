"""Networks of PyTorch's libraries beside ours."""

import numpy as np
import torch
import torch_rule
from golden import golden_input

from efficientnetv2 import build_model, load_weights


def normalized(model: torch.nn.Module) -> torch.nn.Module:
    """Gives a fresh network the statistics of some images, so that what it says depends on them."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # The plain mean over batches.
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.uniform_(norm.bias, -0.5, 0.5)
    logits_of(model.train(), golden_input(96, count=16))
    for norm in norms:  # Else other images explode in channels that these left dark.
        norm.running_var.clamp_(min=norm.running_var.mean() / 2)
    return model.eval()


def logits_of(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """Shapes: [B, H, W, 3] -> [B, classes]."""
    with torch.no_grad():
        return model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()


def build(name: str):
    return build_model(name, num_classes=torch_rule.CLASSES, include_preprocessing=False)


def check_agreement(theirs: torch.nn.Module, name: str, path):
    """Loads a file into our model `name`, compares the logits, and returns the report."""
    ours = build(name)
    report = load_weights(ours, str(path))
    for size in torch_rule.SIZES:
        images = golden_input(size)
        expected = logits_of(theirs, images)
        difference = np.abs(np.asarray(ours(images, training=False)) - expected).max()
        assert difference <= 1e-4 * expected.std(), f"{difference} of {expected.std()}"
    return report
