"""Weights of torchvision, beside torchvision."""

import argparse

import numpy as np
import pytest
import torch
import torch_rule
from safetensors.torch import save_file
from torch_models import check_agreement, normalized
from torchvision import models

from efficientnetv2.weights.load import read_weights

pytestmark = pytest.mark.sources
slow = pytest.mark.slow


def create(name, seed=0):
    torch.manual_seed(seed)
    return normalized(getattr(models, name)(num_classes=torch_rule.CLASSES))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("efficientnet_v2_s", "efficientnetv2-s"),
        ("efficientnet_b0", "efficientnet-b0"),
        pytest.param("efficientnet_v2_m", "efficientnetv2-m", marks=slow),
        pytest.param("efficientnet_v2_l", "efficientnetv2-l", marks=slow),
        pytest.param("efficientnet_b4", "efficientnet-b4", marks=slow),
        pytest.param("efficientnet_b5", "efficientnet-b5", marks=slow),
        pytest.param("efficientnet_b7", "efficientnet-b7", marks=slow),
    ],
)
def test_logits_are_those_of_torchvision(tmp_path, theirs, ours):
    model = create(theirs)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    report = check_agreement(model, ours, tmp_path / "w.pth")
    assert report.missing == report.unexpected == ()


def test_a_checkpoint_of_its_training_script(tmp_path):
    """As references/classification/train.py saves it, with averaged weights beside the last."""
    model = create("efficientnet_b0")
    average = torch.optim.swa_utils.AveragedModel(create("efficientnet_b0", seed=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3),
        ],
        milestones=[1],
    )
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "epoch": 1,
        "args": argparse.Namespace(model="efficientnet_b0", lr=0.1),
        "model_ema": average.state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
    }
    torch.save(checkpoint, tmp_path / "model_1.pth")
    report = check_agreement(average.module.eval(), "efficientnet-b0", tmp_path / "model_1.pth")
    assert report.used_ema and report.unexpected == ()
    stored = read_weights(str(tmp_path / "model_1.pth"), use_ema=False)
    assert not stored.used_ema
    stem = model.features[0][0].weight.detach().numpy()
    np.testing.assert_array_equal(stored.arrays["features.0.0.weight"], stem)


@pytest.mark.parametrize("name", [*(f"b{i}" for i in range(8)), "v2_s", "v2_m", "v2_l"])
def test_the_epsilon_is_that_of_each_network(tmp_path, name):
    with torch.device("meta"):
        model = getattr(models, f"efficientnet_{name}")()
    (epsilon,) = {m.eps for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    shapes = {key: tensor.shape[:2] for key, tensor in model.state_dict().items()}
    firsts = {
        key: torch.zeros(shape) for key, shape in shapes.items() if key.endswith(".0.0.weight")
    }
    save_file(firsts, tmp_path / "w.safetensors")
    stored = read_weights(str(tmp_path / "w.safetensors"))
    variance = stored.to_ours("stem_bn/moving_variance", np.zeros(1, np.float32))[0]
    assert variance + 1e-3 == pytest.approx(epsilon, rel=1e-3)
