"""What files of timm and torchvision tell of the images that their weights expect."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from efficientnetv2.weights.stored import Preprocessing
from efficientnetv2.weights.torch_files import read_torch_file


@pytest.mark.parametrize(
    ("mean", "std", "normalization"),
    [
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], "imagenet"),
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], "inception"),
        ([0, 0, 0], [1, 1, 1], None),
    ],
)
def test_timms_config_tells_size_and_normalization(tmp_path, mean, std, normalization):
    described = {"input_size": [3, 192, 192], "test_input_size": [3, 224, 224]}
    described |= {"mean": mean, "std": std}
    config = {"architecture": "tf_efficientnetv2_b0", "pretrained_cfg": described}
    stem = {"conv_stem.weight": np.zeros((32, 3, 3, 3), np.float32)}
    save_file(stem, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    stored = read_torch_file(str(tmp_path / "model.safetensors"))
    assert stored.preprocessing == Preprocessing(224, None, None, normalization)
    del config["pretrained_cfg"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_torch_file(str(tmp_path / "model.safetensors")).preprocessing is None


@pytest.mark.parametrize(
    ("blocks", "classes", "normalization"),
    [(40, 1000, "imagenet"), (57, 1000, "imagenet"), (79, 1000, "inception"), (79, 9, "imagenet")],
)
def test_torchvisions_architecture_tells_the_normalization(
    tmp_path, blocks, classes, normalization
):
    arrays = {f"features.1.{i}.block.0.0.weight": np.zeros(1, np.float32) for i in range(blocks)}
    arrays["features.0.0.weight"] = np.zeros((24, 3, 3, 3), np.float32)
    arrays["classifier.1.bias"] = np.zeros(classes, np.float32)
    save_file(arrays, tmp_path / "model.safetensors")
    stored = read_torch_file(str(tmp_path / "model.safetensors"))
    assert stored.preprocessing == Preprocessing(None, None, None, normalization)
