"""Loading files that Keras saved: each says what the network that was saved says."""

import dataclasses
import gzip
import json
import pathlib
import re

import h5py
import keras
import keras_sources
import numpy as np
import pytest
from keras_sources import CLASSES, SIZE, V1_SPEC, V2_SPEC, check_logits, small_v2

from efficientnetv2 import build_model, load_weights
from efficientnetv2.common.errors import UserError
from efficientnetv2.network.compat import tf_variable, var_path
from efficientnetv2.weights.keras_names import find_layout, names_of_paths
from efficientnetv2.weights.load import read_weights
from efficientnetv2.weights.stored import Preprocessing

DATA = pathlib.Path(__file__).parents[1] / "data" / "keras_files"
SPECS = {"v1": V1_SPEC, "v2": V2_SPEC}
ENDINGS = (".h5", ".weights.h5", ".keras")
pytestmark = pytest.mark.filterwarnings(*keras_sources.WARNINGS)


def save(model, folder, ending) -> str:
    path = str(folder / f"saved{ending}")
    (model.save_weights if "weights" in ending else model.save)(path)
    return path


@pytest.fixture(scope="module")
def saved_v2():
    model = small_v2()
    keras_sources.set_weights(model)
    return model


@pytest.mark.parametrize(
    "file", [f"{p.parent.name}/{p.name}" for p in sorted(DATA.glob("keras[23]/*.gz"))]
)
def test_reads_what_either_keras_saved(tmp_path, file):
    path = tmp_path / pathlib.Path(file).name.removesuffix(".gz")
    path.write_bytes(gzip.decompress((DATA / file).read_bytes()))
    kind = path.name[:2]
    expected = json.loads((DATA / file).with_name("logits.json").read_text())[kind]
    model = build_model(SPECS[kind], num_classes=CLASSES)
    check_logits(model, str(path), expected, keras_sources.pixels(SIZE))
    stored = read_weights(str(path))
    assert stored.num_classes == CLASSES
    only_weights = "weights" in path.name
    preprocessing = Preprocessing(SIZE, "whole", "bilinear", "imagenet")
    assert stored.preprocessing == (None if only_weights else preprocessing)


@pytest.mark.parametrize(
    "source, name, gain, endings",
    [
        ("EfficientNetV2B0", "efficientnetv2-b0", 2.0, ENDINGS),
        ("EfficientNetV2S", "efficientnetv2-s", 1.35, (".keras",)),
        ("EfficientNetB0", "efficientnet-b0", 2.5, (".h5", ".keras")),
        ("EfficientNetB3", "efficientnet-b3", 2.0, (".weights.h5",)),
    ],
)
def test_says_what_keras_applications_says(tmp_path, source, name, gain, endings):
    build = getattr(keras.applications, source)
    images = keras_sources.pixels(64)
    settings = {"classes": 10, "classifier_activation": None, "input_shape": (64, 64, 3)}
    network = build(weights=None, **settings)
    keras_sources.set_weights(network, gain)
    expected, model = keras_sources.logits(network, images), build_model(name, num_classes=10)
    for ending in endings:
        check_logits(model, save(network, tmp_path, ending), expected, images)


def test_without_top(tmp_path):
    network = small_v2(top=False)
    keras_sources.set_weights(network)
    images = keras_sources.pixels(SIZE)
    expected = keras_sources.logits(network, images)
    model, other = build_model(V2_SPEC, include_top=False), build_model(V2_SPEC)
    for ending in ENDINGS:
        path = save(network, tmp_path, ending)
        check_logits(model, path, expected, images)
        with pytest.raises(UserError, match="lacks weights of the model: 2, first classifier/"):
            load_weights(other, path)


def test_a_part_that_the_model_lacks_is_left_aside(tmp_path, saved_v2):
    model = build_model(V2_SPEC, include_top=False)
    pyramid = keras.Model(model.input, model.get_layer("blocks_3").output)
    for ending in ENDINGS:
        path = save(saved_v2, tmp_path, ending)
        report = load_weights(model, path)
        assert (len(report.unused), report.missing, report.unexpected) == (2, (), ())
        assert len(load_weights(pyramid, path).unused) == 2 + 5


def test_other_classes(tmp_path, saved_v2):
    model = build_model(V2_SPEC, num_classes=7)
    for ending in ENDINGS:
        path = save(saved_v2, tmp_path, ending)
        with pytest.raises(UserError, match="of another shape .*: 2, first classifier/kernel"):
            load_weights(model, path)
        report = load_weights(model, path, skip_mismatch=True)
        layers = [line.split(":")[0] for line in report.mismatched]
        assert layers == ["classifier/kernel", "classifier/bias"]
        assert len(report.loaded) == len(model.weights) - 2


def test_one_channel(tmp_path, saved_v2):
    path = save(saved_v2, tmp_path, ".weights.h5")
    grey = keras_sources.golden_input(SIZE)[..., :1]
    answers = []
    for channels in (1, 3):
        settings = {"in_channels": channels, "include_preprocessing": False}
        model = build_model(V2_SPEC, num_classes=CLASSES, **settings)
        load_weights(model, path)
        answers.append(keras_sources.logits(model, grey.repeat(channels, axis=-1)))
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-4, atol=1e-5)


def test_strides_that_became_dilation_do_not_matter(tmp_path, saved_v2):
    """As the blocks are counted, not known by the size of their images."""
    halving = tuple(dataclasses.replace(row, stride=2) for row in V2_SPEC.blocks)
    halving = dataclasses.replace(V2_SPEC, blocks=halving, output_stride=8)
    for ending in ENDINGS:
        path, weights = save(saved_v2, tmp_path, ending), []
        for spec in (V2_SPEC, halving):
            model = build_model(spec, num_classes=CLASSES)
            load_weights(model, path)
            weights.append({var_path(w): np.asarray(tf_variable(w)) for w in model.weights})
        assert weights[0].keys() == weights[1].keys()
        for name, value in weights[0].items():
            np.testing.assert_array_equal(value, weights[1][name])


@pytest.mark.parametrize("sequential", [True, False])
def test_a_network_within_a_model(tmp_path, sequential):
    """As transfer learning makes them: a base, a classifier of any name, an optimizer."""
    base = small_v2(top=False)
    keras_sources.set_weights(base)
    inputs = keras.Input((SIZE, SIZE, 3))
    parts = [keras.layers.RandomFlip("horizontal"), base, keras.layers.Dense(CLASSES, name="mine")]
    if sequential:
        network = keras.Sequential([inputs, *parts])
    else:
        network = keras.Model(inputs, parts[2](parts[1](parts[0](inputs))))
    network.compile("adam", "mse")
    network.optimizer.build(network.trainable_variables)  # As training does.
    images, model = keras_sources.pixels(SIZE), build_model(V2_SPEC, num_classes=CLASSES)
    for ending in ENDINGS:
        path = save(network, tmp_path, ending)
        check_logits(model, path, keras_sources.logits(network, images), images)
        preprocessing = read_weights(path).preprocessing
        expected = Preprocessing(SIZE, "whole", "bilinear", "imagenet")
        assert preprocessing == (None if "weights" in ending else expected)


def test_of_two_dense_layers_none_is_the_classifier(tmp_path):
    hidden = keras_sources.with_classifier(small_v2(top=False), "hidden")
    network = keras_sources.with_classifier(hidden, "predicted")
    headless = build_model(V2_SPEC, include_top=False)
    for ending in ENDINGS:
        path = save(network, tmp_path, ending)
        assert read_weights(path).num_classes is None
        with pytest.raises(UserError, match="lacks weights of the model: 2, first classifier/"):
            load_weights(build_model(V2_SPEC, num_classes=CLASSES), path)
        report = load_weights(headless, path)
        assert (len(report.unused), report.unexpected) == (4, ())


def test_the_layout_of_keras_2_13_on_windows(tmp_path, saved_v2):
    """It numbers each layer twice, and joins its class with a backslash."""
    path, old = save(saved_v2, tmp_path, ".weights.h5"), str(tmp_path / "old.weights.h5")
    with h5py.File(path) as source, h5py.File(old, "w") as target:
        for layer in source["layers"]:
            kind, number = re.fullmatch(r"(.*?)(?:_(\d+))?", layer).groups()
            name = kind if number is None else f"{kind}_{2 * int(number)}"
            source.copy(f"layers/{layer}", target, f"_layer_checkpoint_dependencies\\{name}")
    images = keras_sources.pixels(SIZE)
    model = build_model(V2_SPEC, num_classes=CLASSES)
    check_logits(model, old, keras_sources.logits(saved_v2, images), images)


def test_blocks_are_counted_as_the_file_counts_them():
    repeats = "abcdefghijklmnopqrstuvwxyz{|"
    blocks = [*[f"block1{i}_bn/gamma" for i in repeats], "block2a_bn/gamma", "block10a_bn/gamma"]
    paths = names_of_paths(reversed(blocks), find_layout(blocks))
    assert paths == {f"blocks_{i}/depthwise_bn/gamma": name for i, name in enumerate(blocks)}
    blocks = [f"stack_{i}_block{j}_MB_dw_bn/beta" for i in (0, 2, 10) for j in range(12)]
    paths = names_of_paths(sorted(blocks), find_layout(blocks))
    assert paths == {f"blocks_{i}/depthwise_bn/beta": name for i, name in enumerate(blocks)}


def test_a_files_normalization_replaces_the_models_unless_it_was_asked_for(tmp_path, saved_v2):
    images = keras_sources.pixels(SIZE)
    expected = keras_sources.logits(saved_v2, images)
    path = save(saved_v2, tmp_path, ".keras")
    other = dataclasses.replace(V2_SPEC, normalization="centered")
    model = build_model(other, num_classes=CLASSES)
    report = load_weights(model, path)
    assert report.adapted == ("normalization: imagenet",)
    built = build_model(other, num_classes=CLASSES, weights=path)
    for network in (model, built):
        np.testing.assert_allclose(keras_sources.logits(network, images), expected, rtol=1e-3)
    asked = build_model(V2_SPEC, num_classes=CLASSES, weights=path, normalization="centered")
    assert np.abs(keras_sources.logits(asked, images) - expected).max() > 0.1 * expected.std()
