"""Loading files of the keras_efficientnet_v2 package, which need not be installed."""

import gzip
import json
import pathlib

import h5py
import keras_sources
import pytest
from golden import golden_input, golden_weight

from efficientnetv2 import Blocks, ModelSpec, build_model, load_weights
from efficientnetv2.network.layers import padding_of
from efficientnetv2.weights.load import read_weights
from efficientnetv2.weights.stored import Preprocessing

DATA = pathlib.Path(__file__).parents[1] / "data" / "keras_files"
FIGURES = json.loads((DATA / "keras_efficientnet_v2.json").read_text())
SPEC = ModelSpec(  # As in `make.py`.
    "small",
    (
        Blocks("fused", 1, 3, 1, 1, 8, 8),
        Blocks("fused", 1, 3, 2, 4, 8, 8),
        Blocks("mbconv", 2, 3, 2, 4, 8, 16, 0.25),
    ),
    head_channels=24,
    normalization="imagenet",
)


def write_as_the_package_does(path, figures):
    """A group for each layer, and in it the weights under their names."""
    with h5py.File(path, "w") as file:
        for name, shape in figures["weights"].items():
            layer = name.split("/")[0]
            file[f"{layer}/{name}:0"] = golden_weight(name, tuple(shape), figures["gain"])


@pytest.mark.parametrize("name", FIGURES)
def test_says_what_the_package_says(tmp_path, name):
    figures, path = FIGURES[name], str(tmp_path / "weights.h5")
    write_as_the_package_does(path, figures)
    model = build_model(name, num_classes=10, include_preprocessing=False)
    keras_sources.check_logits(model, path, figures["logits"], golden_input(figures["size"]))


@pytest.mark.parametrize("ending", [".h5", "_weights.h5"])
@pytest.mark.parametrize("mode, padding", [("tensorflow", "same"), ("torch", "symmetric")])
def test_reads_what_the_package_saved(tmp_path, mode, padding, ending):
    file = DATA / "keras_efficientnet_v2_files" / f"{mode}{ending}.gz"
    path = str(tmp_path / f"saved{ending}")
    pathlib.Path(path).write_bytes(gzip.decompress(file.read_bytes()))
    model = build_model(SPEC, num_classes=keras_sources.CLASSES)
    expected = json.loads(file.with_name("logits.json").read_text())[mode]
    images = keras_sources.pixels(keras_sources.SIZE)
    keras_sources.check_logits(model, path, expected, images)
    assert padding_of(model) == padding
    stored = read_weights(path)
    assert stored.num_classes == keras_sources.CLASSES
    preprocessing = Preprocessing(keras_sources.SIZE, "whole", "bilinear", "imagenet")
    assert stored.preprocessing == (None if "weights" in ending else preprocessing)


def test_a_network_without_a_classifier_leaves_theirs_aside(tmp_path):
    figures, path = FIGURES["efficientnetv2-b0"], str(tmp_path / "weights.h5")
    write_as_the_package_does(path, figures)
    report = load_weights(build_model("efficientnetv2-b0", include_top=False), path)
    assert set(report.unused) == {"predictions/kernel", "predictions/bias"}
    assert report.missing == report.unexpected == ()
