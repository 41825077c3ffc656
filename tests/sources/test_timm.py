"""Weights of timm, beside timm."""

import argparse
import json

import pytest
import timm
import torch
import torch_rule
from safetensors.torch import save_file
from timm.utils import CheckpointSaver, ModelEmaV3
from torch_models import build, check_agreement, normalized

from efficientnetv2 import load_weights
from efficientnetv2.weights.load import read_weights

pytestmark = pytest.mark.sources
slow = pytest.mark.slow


def create(name, seed=0):
    torch.manual_seed(seed)
    return normalized(timm.create_model(name, num_classes=torch_rule.CLASSES))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("tf_efficientnetv2_b0", "efficientnetv2-b0"),
        ("tf_efficientnetv2_s", "efficientnetv2-s"),
        ("tf_efficientnet_b0", "efficientnet-b0"),
        pytest.param("tf_efficientnetv2_b3", "efficientnetv2-b3", marks=slow),
        pytest.param("tf_efficientnetv2_m", "efficientnetv2-m", marks=slow),
        pytest.param("tf_efficientnetv2_l", "efficientnetv2-l", marks=slow),
        pytest.param("tf_efficientnetv2_xl", "efficientnetv2-xl", marks=slow),
        pytest.param("tf_efficientnet_b7", "efficientnet-b7", marks=slow),
    ],
)
def test_logits_are_those_of_timm(tmp_path, theirs, ours):
    model = create(theirs)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    report = check_agreement(model, ours, tmp_path / "w.pth")
    assert report.missing == report.unexpected == ()


def test_a_folder_of_its_hub_tells_the_networks_that_pad_as_pytorch_does(tmp_path):
    model = create("efficientnet_b0")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "efficientnet_b0", "num_classes": torch_rule.CLASSES}
    (tmp_path / "config.json").write_text(json.dumps(config))
    check_agreement(model, "efficientnet-b0", tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["tf_efficientnet_b0", "efficientnet_b0"])
def test_a_checkpoint_of_its_training_script(tmp_path, name):
    """It holds the arguments, the optimizer, and averaged weights beside the last."""
    model = create(name)
    average = ModelEmaV3(create(name, seed=1))
    CheckpointSaver(
        model,
        torch.optim.AdamW(model.parameters()),
        args=argparse.Namespace(model=name, lr=0.1, mean=None, opt_betas=(0.9, 0.99)),
        model_ema=average,
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
    ).save_checkpoint(epoch=1, metric=0.5)
    path = tmp_path / "last.pth.tar"

    assert check_agreement(average.module.eval(), "efficientnet-b0", path).used_ema
    stored = read_weights(str(path), use_ema=False)
    assert not stored.used_ema
    assert (stored.arrays["conv_stem.weight"] == model.conv_stem.weight.detach().numpy()).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["v2_b1", "v2_b2", "_b1", "_b2", "_b3", "_b4", "_b5", "_b6", "_b8"]
)
def test_the_weights_of_the_other_variants_fit_too(tmp_path, name):
    model = timm.create_model(f"tf_efficientnet{name}", num_classes=torch_rule.CLASSES)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    report = load_weights(
        build(f"efficientnet{name.replace('_', '-')}"), f"{tmp_path}/w.safetensors"
    )
    assert report.unexpected == report.unused == ()
