"""EfficientNetV2 in Keras and TensorFlow: train, evaluate, predict, export.

    import efficientnetv2 as effnet

    config = effnet.get_config("efficientnetv2-s", "folder", "train.epochs=20", data_dir="photos")
    scores = effnet.train(config, "runs/photos", weights="imagenet")  # Trains or resumes.
    scores = effnet.evaluate("runs/photos")
    for row in effnet.predict("runs/photos", ["photo.jpg", "folder"]):
        print(row["image"], row["top"][0]["label"])
    effnet.export("runs/photos", "serving/photos", formats=("tflite", "onnx"))
    model = effnet.build_model("efficientnetv2-s", num_classes=10, weights="imagenet")

Each `--mode` of the command line is one of these functions. Bad input is a `UserError`, a
`ValueError` of one line. Nothing is printed without `verbose=True`.
"""

import importlib
import pathlib

# Where each public name is defined; __init__.pyi says the same to type checkers and editors.
_HOMES = {
    "Blocks": "efficientnetv2.hparams.spec",
    "Callback": "efficientnetv2.training.callbacks",
    "Config": "efficientnetv2.hparams",
    "LoadReport": "efficientnetv2.weights.load",
    "ModelSpec": "efficientnetv2.hparams.spec",
    "SearchStopped": "efficientnetv2.search.run",
    "Stage": "efficientnetv2.hparams",
    "Trained": "efficientnetv2.training.load_trained",
    "TrainingStopped": "efficientnetv2.training.signals",
    "UserError": "efficientnetv2.common.errors",
    "build_backbone": "efficientnetv2.weights.build",
    "build_from_config": "efficientnetv2.network.model",
    "build_model": "efficientnetv2.weights.build",
    "check_data": "efficientnetv2.datasets.tools.check",
    "demo": "efficientnetv2.export.demo",
    "evaluate": "efficientnetv2.training.load_trained",
    "get_config": "efficientnetv2.hparams",
    "get_spec": "efficientnetv2.hparams.models",
    "list_models": "efficientnetv2.hparams.models",
    "load_config": "efficientnetv2.hparams",
    "load_pretrained": "efficientnetv2.training.load_trained",
    "load_run": "efficientnetv2.training.load_trained",
    "load_weights": "efficientnetv2.weights.load",
    "plan": "efficientnetv2.training.run",
    "predict": "efficientnetv2.export.predict",
    "prepare_data": "efficientnetv2.datasets.tools.prepare",
    "preview": "efficientnetv2.datasets.tools.preview",
    "profile": "efficientnetv2.report.profile",
    "save_config": "efficientnetv2.hparams",
    "save_spec": "efficientnetv2.hparams.spec",
    "scale": "efficientnetv2.search.scale",
    "scale_spec": "efficientnetv2.hparams.spec",
    "set_normalization": "efficientnetv2.network.layers",
    "set_padding": "efficientnetv2.network.layers",
    "spec_from_config": "efficientnetv2.hparams.models",
    "stage_table": "efficientnetv2.hparams",
    "train": "efficientnetv2.training.run",
    "verify": "efficientnetv2.export.verify",
    "with_overrides": "efficientnetv2.hparams",
    "with_values": "efficientnetv2.hparams",
}
_CALLABLE_PACKAGES = ("export", "report", "search")  # Functions, see `make_callable`.
__all__ = [*_HOMES, *_CALLABLE_PACKAGES]

# In a checkout datasets/, hparams/ and export/ lie at its root, beside this folder.
_ROOT = pathlib.Path(__file__).resolve().parents[1]
if (_ROOT / "pyproject.toml").is_file() and (_ROOT / "hparams").is_dir():
    __path__.append(str(_ROOT))


def __getattr__(name: str):
    """Imports on first use, so that a configuration needs no Keras and a network no TensorFlow."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _CALLABLE_PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
