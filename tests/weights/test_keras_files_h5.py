"""Keras files that are damaged, hostile or of something else: one line says what is wrong."""

import gzip
import json
import pathlib
import zipfile

import h5py
import keras
import keras_sources
import numpy as np
import pytest

from efficientnetv2 import build_model, load_weights
from efficientnetv2.common.errors import UserError
from efficientnetv2.weights import keras_files
from efficientnetv2.weights.keras_files import read_keras_file

DATA = pathlib.Path(__file__).parents[1] / "data" / "keras_files" / "keras3"
ENDINGS = (".h5", ".weights.h5", ".keras")
pytestmark = pytest.mark.filterwarnings(*keras_sources.WARNINGS)


def whole_file(folder, ending) -> pathlib.Path:
    path = folder / f"v2{ending}"
    path.write_bytes(gzip.decompress((DATA / f"{path.name}.gz").read_bytes()))
    return path


def check_refused(path, message):
    with pytest.raises(UserError, match=message) as error:
        read_keras_file(str(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_short(tmp_path, ending, share):
    path = whole_file(tmp_path, ending)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    check_refused(path, "cannot read .*")


def test_damage_in_an_archive_is_noticed(tmp_path):
    path = whole_file(tmp_path, ".keras")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    check_refused(path, "cannot read .*CRC")


@pytest.mark.parametrize("content", [b"", b"no weights at all", bytes(4096)])
def test_something_else_under_the_name(tmp_path, content):
    path = tmp_path / "weights.h5"
    path.write_bytes(content)
    check_refused(path, "neither an HDF5 file nor a .keras archive")


@pytest.mark.parametrize("lacks", ["config.json", "model.weights.h5"])
def test_an_archive_without_a_part(tmp_path, lacks):
    path = tmp_path / "model.keras"
    with (
        zipfile.ZipFile(whole_file(tmp_path, ".keras")) as source,
        zipfile.ZipFile(path, "w") as target,
    ):
        for name in source.namelist():
            if name != lacks:
                target.writestr(name, source.read(name))
    check_refused(path, f"lacks {lacks}")


@pytest.mark.parametrize("ending", ENDINGS)
def test_another_network(tmp_path, ending):
    network = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv1_conv")]
    )
    path = str(tmp_path / f"other{ending}")
    (network.save_weights if "weights" in ending else network.save)(path)
    check_refused(path, "no EfficientNet of keras.applications .* it holds .*conv")


def test_another_network_with_the_same_kinds_of_layers(tmp_path):
    layers = [keras.layers.Conv2D(8, 3), keras.layers.DepthwiseConv2D(3)]
    layers += [keras.layers.BatchNormalization()]
    path = str(tmp_path / "other.weights.h5")
    keras.Sequential([keras.Input((32, 32, 3)), *layers]).save_weights(path)
    with pytest.raises(UserError, match="lacks weights of the model"):
        load_weights(build_model(keras_sources.V2_SPEC), path)


@pytest.mark.parametrize(
    "config", ["[1]", "{}", '{"config": 3}', '{"config": {"layers": [7]}}', "{", "[" * 100_000]
)
def test_a_configuration_that_is_not_of_keras(tmp_path, config):
    path = whole_file(tmp_path, ".h5")
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = config
    check_refused(path, "cannot read|configuration")


@pytest.mark.parametrize(
    "change",
    [
        {"name": "rescaling", "scale": "large"},
        {"name": "rescaling", "scale": {"config": {}}},
        {"name": "normalization", "mean": None},  # Nor is it among the weights.
        {"name": "input_layer", "batch_shape": [None]},
        {"name": "stem_bn", "epsilon": None},
    ],
)
def test_a_configuration_that_lacks_something(tmp_path, change):
    path = whole_file(tmp_path, ".h5")
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            if layer["config"]["name"] == change["name"]:
                layer["config"].update(change)
        file.attrs["model_config"] = json.dumps(config)
    check_refused(path, "cannot read .* model_config is not as Keras writes it")


def test_links_out_of_the_file_are_not_followed(tmp_path):
    outside = whole_file(tmp_path, ".weights.h5")
    path = tmp_path / "links.weights.h5"
    with h5py.File(path, "w") as file:
        file["layers"] = h5py.ExternalLink(str(outside), "layers")
    check_refused(path, "it holds no weights")
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset("stem_conv/kernel", (4,), "f4", external=[(str(outside), 0, 16)])
    check_refused(tmp_path / "raw.h5", "keeps stem_conv/kernel in another file")
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource(str(outside), "layers/conv2d/vars/0", (4,))
        file.create_virtual_dataset("stem_conv/kernel", layout)
    check_refused(tmp_path / "virtual.h5", "keeps stem_conv/kernel in another file")


@pytest.mark.parametrize("ending", [".h5", ".keras"])
def test_a_file_that_unpacks_to_too_much(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(keras_files, "MAX_BYTES", 20_000)
    check_refused(whole_file(tmp_path, ending), "breaks the limit of 20000 bytes with ")


def test_a_weight_of_absurd_size_is_not_read(tmp_path):
    path = tmp_path / "huge.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("block1a_bn/gamma", (2**50,), "f4", chunks=(1024,))
    check_refused(path, "breaks the limit of .* bytes with block1a_bn/gamma")


def test_two_networks_in_one_file(tmp_path):
    path = tmp_path / "two.h5"
    with h5py.File(path, "w") as file:
        for network in ("left", "right"):
            file[f"{network}/stem_conv/kernel:0"] = np.zeros((3, 3, 3, 8), np.float32)
    check_refused(path, "holds stem_conv/kernel twice")


def test_half_precision_is_widened(tmp_path):
    values = np.array([1, -2.5, 0, 1 / 3], np.float32)
    path = str(tmp_path / "half.h5")
    with h5py.File(path, "w") as file:
        file["block1a_bn/gamma:0"] = values.astype(np.float16)
        file["block1a_bn/beta:0"] = (values.view(np.uint32) >> 16).astype(np.uint16).view("V2")
    arrays = read_keras_file(path).arrays
    np.testing.assert_array_equal(arrays["block1a_bn/gamma"], values.astype(np.float16))
    np.testing.assert_allclose(arrays["block1a_bn/beta"], values, rtol=2**-7)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
