"""State dicts of timm and torchvision: figures of theirs, and files that are not as they should."""

import functools
import json
import logging
import pathlib
import sys
import types

import keras
import ml_dtypes
import numpy as np
import pytest
import torch_rule
from golden import golden_input
from safetensors.numpy import save_file

from efficientnetv2 import build_model, load_weights
from efficientnetv2.common.errors import UserError
from efficientnetv2.network.compat import tf_variable, var_path
from efficientnetv2.network.layers import padding_of
from efficientnetv2.weights.torch_files import read_torch_file

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "torch"
OURS = {
    "timm-tf_efficientnetv2_b0": "efficientnetv2-b0",
    "timm-tf_efficientnetv2_s": "efficientnetv2-s",
    "torchvision-efficientnet_v2_s": "efficientnetv2-s",
    "timm-tf_efficientnet_b0": "efficientnet-b0",
    "torchvision-efficientnet_b0": "efficientnet-b0",
    "timm-efficientnet_b0": "efficientnet-b0",
}
STEMS = {"timm": "conv_stem.weight", "torchvision": "features.0.0.weight"}


def build(name, **settings):
    settings = {"num_classes": torch_rule.CLASSES, "include_preprocessing": False, **settings}
    return build_model(name, **settings)


built = functools.cache(build)


def read_golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


def save_golden(golden, folder):
    """Writes the golden model as its library would, with the `config.json` of timm's hub."""
    prefix = f"{golden['library']}/{golden['model']}"
    tensors = {
        name: torch_rule.make_weight(prefix, name, shape, golden["gain"])
        if shape
        else np.array(0, np.int64)
        for name, shape in golden["shapes"].items()
    }
    save_file(tensors, folder / "model.safetensors")
    if golden["library"] == "timm":
        write_config(folder, golden["model"])
    return str(folder / "model.safetensors")


def write_config(folder, architecture):
    (folder / "config.json").write_text(json.dumps({"architecture": architecture}))


def check_logits(golden, size, logits):
    expected = np.array(golden["logits"][str(size)])
    difference = np.abs(np.asarray(logits) - expected).max(axis=1)
    np.testing.assert_array_less(difference / expected.std(axis=1), 1e-4)


def value_of(model, path):
    return next(tf_variable(w).numpy() for w in model.weights if var_path(w) == path)


def message_of(path):
    """The error of reading a file, which has one line."""
    with pytest.raises(UserError) as error:
        read_torch_file(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", OURS)
def test_logits_are_those_of_the_library(tmp_path, name):
    golden = read_golden(name)
    model = built(OURS[name])  # Of any padding: two names share each.

    report = load_weights(model, save_golden(golden, tmp_path))

    for size in torch_rule.SIZES:
        check_logits(golden, size, model(golden_input(size), training=False))
    assert set(report.loaded) == set(map(var_path, model.weights))
    assert report.missing == report.unexpected == report.mismatched == report.unused == ()
    assert report.format == golden["library"]
    assert padding_of(model) == ("same" if "tf_" in name else "symmetric")


def test_the_padding_reaches_what_was_traced_before_and_is_saved_with_the_model(tmp_path):
    golden, images = read_golden("torchvision-efficientnet_b0"), golden_input(64)
    model = build("efficientnet-b0")
    before = model.predict(images, verbose=0)

    report = load_weights(model, save_golden(golden, tmp_path))

    assert "padding: same -> symmetric" in report.adapted
    check_logits(golden, 64, model.predict(images, verbose=0))
    assert np.abs(before - golden["logits"]["64"]).max() > 0.1
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert padding_of(again) == "symmetric"
    check_logits(golden, 64, again.predict(images, verbose=0))


def test_a_network_with_another_stem_stride_and_head_takes_the_weights_too(tmp_path):
    golden = read_golden("timm-tf_efficientnetv2_b0")
    path = save_golden(golden, tmp_path)
    model = build(
        "efficientnetv2-b0", num_classes=1, include_top=False, in_channels=1, output_stride=8
    )
    report = load_weights(model, path)
    assert report.unused == ("classifier.bias", "classifier.weight")
    assert report.missing == report.unexpected == ()

    def weight(name):
        shape = golden["shapes"][name]
        return torch_rule.make_weight("timm/tf_efficientnetv2_b0", name, shape, golden["gain"])

    np.testing.assert_allclose(
        value_of(model, "stem_conv/kernel")[:, :, 0, 5],
        weight("conv_stem.weight")[5].sum(axis=0),
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_array_equal(  # The last of 1 + 2 + 2 + 3 + 5 + 8 blocks.
        value_of(model, "blocks_20/depthwise_conv/kernel")[..., 7, 0],
        weight("blocks.5.7.conv_dw.weight")[7, 0],
    )


def test_weights_of_another_model_are_a_user_error_and_nothing_is_assigned(tmp_path):
    path = save_golden(read_golden("timm-tf_efficientnetv2_b0"), tmp_path)
    model = build("efficientnet-b0", num_classes=3)
    before = [tf_variable(weight).numpy() for weight in model.weights]
    with pytest.raises(UserError, match="lacks weights of the model: .*, first blocks_0/"):
        load_weights(model, path)
    for weight, value in zip(model.weights, before):
        np.testing.assert_array_equal(tf_variable(weight).numpy(), value)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_precisions_become_float32(tmp_path, kind):
    stem = np.arange(24).reshape(2, 3, 2, 2).astype(kind)
    save_file({"features.0.0.weight": stem}, tmp_path / "w.safetensors")
    stored = read_torch_file(str(tmp_path / "w.safetensors"))
    array = stored.arrays["features.0.0.weight"]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, np.arange(24).reshape(2, 3, 2, 2))


def test_wrappers_and_counters_are_no_part_of_names(tmp_path):
    names = ("module.conv_stem.weight", "module._orig_mod.bn1.bias", "_orig_mod.bn2.bias")
    counters = {"n_averaged": np.array(3), "module.bn1.num_batches_tracked": np.array(0)}
    weights = {name: np.ones(4, np.float32) for name in names}
    save_file({**weights, **counters}, tmp_path / "w.safetensors")
    stored = read_torch_file(str(tmp_path / "w.safetensors"))
    assert set(stored.arrays) == {"conv_stem.weight", "bn1.bias", "bn2.bias"}


def read_timm(folder, architecture=None, updates=0):
    """Returns the padding and epsilon of a state dict in timm's layout."""
    tensors = {
        "conv_stem.weight": np.ones((1, 1, 1, 1), np.float32),
        "bn1.num_batches_tracked": np.array(updates),
    }
    save_file(tensors, folder / "w.safetensors")
    if architecture:
        write_config(folder, architecture)
    stored = read_torch_file(str(folder / "w.safetensors"))
    return stored.padding, epsilon_of(stored)


def epsilon_of(stored):
    return float(stored.to_ours("stem_bn/moving_variance", np.zeros(1, np.float32))[0]) + 1e-3


@pytest.mark.parametrize(
    ("architecture", "padding", "epsilon"),
    [
        ("tf_efficientnetv2_xl", "same", 1e-3),
        ("tf_efficientnet_b7_ns", "same", 1e-3),
        ("hf-hub:timm/tf_efficientnetv2_s.in21k_ft_in1k", "same", 1e-3),
        ("efficientnet_b0", "symmetric", 1e-5),
        ("efficientnetv2_s", "symmetric", 1e-5),
        (None, "same", 1e-3),
        ("efficientnet", "same", 1e-3),  # The name of timm's class.
    ],
)
def test_the_architecture_decides_padding_and_epsilon(tmp_path, architecture, padding, epsilon):
    assert read_timm(tmp_path, architecture) == (padding, pytest.approx(epsilon, rel=1e-3))


def test_an_architecture_that_only_has_the_same_names_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="timm's efficientnet_blur_b0, which no network here"):
        read_timm(tmp_path, "efficientnet_blur_b0")


@pytest.mark.parametrize(
    ("updates", "architecture"), [(9, None), (0, None), (9, "tf_efficientnet_b0")]
)
def test_weights_that_may_be_of_either_kind_are_taken_with_a_warning(
    tmp_path, caplog, updates, architecture
):
    with caplog.at_level(logging.WARNING, logger="absl"):
        read_timm(tmp_path, architecture, updates)
    assert ("does not name its architecture" in caplog.text) == (updates > 0 and not architecture)


@pytest.mark.parametrize(
    ("first_shape", "blocks", "epsilon"),
    [((32, 1, 3, 3), 32, 1e-5), ((48, 1, 3, 3), 39, 1e-3), ((24, 24, 3, 3), 32, 1e-3)],
    ids=["b4", "b5", "v2"],
)
def test_torchvision_has_another_epsilon_up_to_b4(tmp_path, first_shape, blocks, epsilon):
    shapes = {f"features.1.{i}.block.0.0.weight": first_shape for i in range(blocks)}
    tensors = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    stem = np.ones((1, 1, 1, 1), np.float32)
    save_file({"features.0.0.weight": stem, **tensors}, tmp_path / "w.safetensors")
    stored = read_torch_file(str(tmp_path / "w.safetensors"))
    assert epsilon_of(stored) == pytest.approx(epsilon, rel=1e-3)


@pytest.mark.parametrize("library", STEMS)
def test_the_file_tells_its_classes(tmp_path, library):
    bias = {"timm": "classifier.bias", "torchvision": "classifier.1.bias"}[library]
    tensors = {STEMS[library]: np.ones((1, 1, 1, 1)), bias: np.ones(7)}
    save_file(tensors, tmp_path / "w.safetensors")
    assert read_torch_file(str(tmp_path / "w.safetensors")).num_classes == 7


def test_other_tensors_are_a_user_error(tmp_path):
    save_file({"layer1.0.conv1.weight": np.ones(1)}, tmp_path / "w.safetensors")
    message = message_of(tmp_path / "w.safetensors")
    assert "no state dict of an EfficientNet" in message and "layer1.0.conv1.weight" in message


@pytest.mark.parametrize("damage", ["empty", "short", "reversed"])
def test_a_damaged_file_is_a_user_error(tmp_path, damage):
    path = tmp_path / "w.safetensors"
    save_file({STEMS["timm"]: np.ones(999)}, path)
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "short": content[:-9]}.get(damage, content[::-1]))
    assert message_of(path).startswith(f"cannot read {path}: ")


def test_a_damaged_config_is_a_user_error(tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": ')
    with pytest.raises(UserError, match="cannot read .*config.json: "):
        read_timm(tmp_path)


@pytest.mark.parametrize("torch", [None, types.SimpleNamespace(__version__="2.9.1+cpu")])
def test_a_pickle_needs_pytorch_and_no_old_one(tmp_path, monkeypatch, torch):
    monkeypatch.setitem(sys.modules, "torch", torch)
    path = tmp_path / "w.pth"
    path.write_bytes(b"")
    assert message_of(path) == (
        f"reading {path} needs PyTorch 2.10 or newer (pip install torch), "
        "or convert it to .safetensors"
    )
