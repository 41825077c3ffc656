"""Writes the figures in this folder, with timm and torchvision (see `requirements-sources.txt`).

From the root: PYTHONPATH=tests/helpers python tests/data/torch/make_goldens.py
"""

import json
import pathlib

import timm
import torch
import torch_rule
import torchvision
from golden import golden_input

MODELS = {  # With the gain at which the logits differ from image to image, and stay small.
    "timm": {
        "tf_efficientnetv2_b0": 1.85,
        "tf_efficientnetv2_s": 1.5,
        "tf_efficientnet_b0": 2.5,
        "efficientnet_b0": 2.5,
    },
    "torchvision": {"efficientnet_v2_s": 1.5, "efficientnet_b0": 2.5},
}


def build(library: str, name: str) -> torch.nn.Module:
    if library == "timm":
        return timm.create_model(name, num_classes=torch_rule.CLASSES)
    return getattr(torchvision.models, name)(num_classes=torch_rule.CLASSES)


def golden(library: str, name: str, gain: float) -> dict:
    model = build(library, name).eval()
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if not key.endswith("num_batches_tracked"):
                weight = torch_rule.make_weight(f"{library}/{name}", key, tensor.shape, gain)
                tensor.copy_(torch.from_numpy(weight))
    logits = {}
    for size in torch_rule.SIZES:
        images = torch.from_numpy(golden_input(size)).permute(0, 3, 1, 2)
        with torch.no_grad():
            logits[str(size)] = [[float(f"{x:.8g}") for x in row] for row in model(images)]
    return {
        "library": library,
        "model": name,
        "version": {"timm": timm, "torchvision": torchvision}[library].__version__,
        "torch": torch.__version__,
        "gain": gain,
        "logits": logits,
        "shapes": {key: list(tensor.shape) for key, tensor in model.state_dict().items()},
    }


if __name__ == "__main__":
    for library, gains in MODELS.items():
        for name, gain in gains.items():
            path = pathlib.Path(__file__).parent / f"{library}-{name}.json"
            content = json.dumps(golden(library, name, gain), separators=(",", ":"))
            path.write_text(content.replace('],"', '],\n"') + "\n")
            print(path.name, path.stat().st_size)
