"""`weights=` by name, from a server on loopback, and the settings that travel with weights."""

import dataclasses
import os
import shutil

import keras
import numpy as np
import published
import pytest
from weight_server import WeightServer

from efficientnetv2 import build_model, hparams
from efficientnetv2.common.console import verbosity
from efficientnetv2.common.errors import UserError
from efficientnetv2.network.compat import tf_variable, var_path
from efficientnetv2.training import run_dir
from efficientnetv2.weights import download
from efficientnetv2.weights.download import CACHE_VARIABLE, URL_VARIABLE
from efficientnetv2.weights.resolve import open_weights
from efficientnetv2.weights.tf_checkpoint import official_names

NAME = published.SPEC.name
ARCHIVES = {"imagenet": "v2/efficientnetv2-b0.tgz", "imagenet21k": "v2/efficientnetv2-b0-21k.tgz"}
CENTERED = dataclasses.replace(published.SPEC, normalization="centered")


@pytest.fixture(scope="module")
def arrays():
    return published.official_arrays()


@pytest.fixture(scope="module")
def content(arrays, tmp_path_factory):
    return published.official_archive(arrays, tmp_path_factory.mktemp("archive"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "RETRY_WAITS", (0.0, 0.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(cache, content, monkeypatch):
    with WeightServer(content) as server:
        monkeypatch.setenv(URL_VARIABLE, server.url)
        yield server


def check_values(model, arrays, but=()):
    names = official_names(model)
    for weight in model.weights:
        path = var_path(weight)
        equal = np.array_equal(tf_variable(weight).numpy(), arrays.get(f"{NAME}/{names[path]}"))
        assert equal == (path.split("/")[0] not in but), path


def normalized(model, pixel=100.0):
    layer = model.get_layer("normalization")
    return np.asarray(layer(np.full((1, 1, 1, 3), pixel, np.float32))).ravel()


def test_a_name_downloads_once_and_loads(server, cache, arrays):
    for _ in range(2):
        model = build_model(CENTERED, weights="imagenet")
        check_values(model, arrays)
        # The weights say how pixels are prepared, not the architecture.
        expected = (100 / 255 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]
        np.testing.assert_allclose(normalized(model), expected, rtol=1e-5)
    assert server.paths == [f"/{ARCHIVES['imagenet']}"]
    assert (cache / "efficientnetv2-b0.tgz").exists()


def test_a_download_is_silent_unless_asked_for(server, cache, capfd):
    with verbosity(False):
        build_model(published.SPEC, weights="imagenet")
        assert capfd.readouterr() == ("", "")
        shutil.rmtree(cache)
        build_model(published.SPEC, weights="imagenet", verbose=True)
    assert capfd.readouterr().err.startswith(f"Downloading {server.url}/")


def test_a_setting_that_is_given_wins(server):
    model = build_model(published.SPEC, weights="imagenet", normalization="centered")
    np.testing.assert_allclose(normalized(model), (100 - 128) / 128)


def test_other_weights_bring_another_preparation(cache, monkeypatch, tmp_path):
    arrays = published.official_arrays(num_classes=21_843)
    with WeightServer(published.official_archive(arrays, tmp_path)) as server:
        monkeypatch.setenv(URL_VARIABLE, server.url)
        model = build_model(published.SPEC, num_classes=21_843, weights="imagenet21k")
        assert server.paths == [f"/{ARCHIVES['imagenet21k']}"]
    check_values(model, arrays)
    np.testing.assert_allclose(normalized(model), (100 - 128) / 128)


def test_other_classes_get_a_fresh_classifier_and_a_warning(server, arrays, caplog):
    keras.utils.set_random_seed(0)
    with caplog.at_level("WARNING"):
        model = build_model(published.SPEC, num_classes=10, weights="imagenet")
    check_values(model, arrays, but=("classifier",))
    kernel, bias = model.get_layer("classifier").get_weights()
    assert kernel.shape == (16, 10)
    assert not bias.any()
    assert 0.1 < np.std(kernel) < 0.3  # Uniform in +-1 / sqrt(10): 0.18.
    message = "efficientnetv2-b0 imagenet has 1000 classes, the model 10: its classifier starts at"
    assert message in caplog.text


def test_without_top(server, arrays, caplog):
    model = build_model(published.SPEC, include_top=False, weights="imagenet")
    check_values(model, arrays)
    assert model.output_shape == (None, 16)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "name, weights, message",
    [
        ("efficientnetv2-xl", "imagenet", "-xl has no 'imagenet' weights; it has imagenet21k, im"),
        ("efficientnetv2-s", "jft", "has no 'jft' weights; it has imagenet, imagenet21k, "),
        (
            "efficientnet-b4-fused-1-3",
            "imagenet",
            "no 'imagenet' weights for model 'efficientnet-b",
        ),
        (
            "efficientnetv2-b0",
            "imagnet",
            "^weights 'imagnet' are no file, nor published; did you mean 'imagenet'?",
        ),
        ("efficientnetv2-b0", "weights", "^weights 'weights' are no file, nor published; valid: i"),
        (
            "keras/ResNet50",
            "imagenet",
            "keras/ResNet50 takes its weights from a run: give --model_",
        ),
    ],
)
def test_weights_that_do_not_exist(cache, name, weights, message):
    with pytest.raises(UserError, match=message) as error:
        open_weights(name, weights)
    assert "\n" not in str(error.value)
    if "keras" not in name:
        with pytest.raises(UserError, match=message):
            build_model(name, weights=weights)
    assert not cache.exists()


def test_without_a_network_one_line_says_where_to_put_the_file(cache, server):
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError) as error:
        build_model(published.SPEC, weights="imagenet")
    text = str(error.value)
    assert text.startswith(f"cannot download {server.url}/{ARCHIVES['imagenet']}: ")
    assert text.endswith(f"put it at {cache / 'efficientnetv2-b0.tgz'}")
    assert "\n" not in text


def test_an_archive_put_there_by_hand_needs_no_network(cache, content, arrays, monkeypatch):
    monkeypatch.setenv(URL_VARIABLE, "http://127.0.0.1:9")  # Where nobody listens.
    cache.mkdir()
    (cache / "efficientnetv2-b0.tgz").write_bytes(content)
    check_values(build_model(published.SPEC, weights="imagenet"), arrays)


def test_a_path_is_loaded_and_changes_no_setting(tmp_path, arrays):
    path = published.save_official(arrays, tmp_path / "model")
    model = build_model(CENTERED, weights=path)
    check_values(model, arrays)
    np.testing.assert_allclose(normalized(model), (100 - 128) / 128)
    with pytest.raises(UserError, match="of another shape"):
        build_model(published.SPEC, num_classes=10, weights=path)


def test_settings_of_a_name(server):
    opened = open_weights(NAME, "imagenet")
    assert opened.settings == {
        "data.num_classes": 1000,
        "eval.isize": 224,
        "data.eval_crop": "v1",
        "data.resize_method": "legacy_bicubic",
        "model.normalization": "imagenet",
    }
    assert opened.labels == "imagenet"
    config = hparams.get_config(NAME, "shapes", "eval.isize=192", weights_settings=opened.settings)
    assert (config.data.num_classes, config.eval.isize) == (1000, 192)
    assert (config.data.eval_crop, config.model.normalization) == ("v1", "imagenet")


def test_settings_of_other_names(cache, monkeypatch, tmp_path):
    arrays = published.official_arrays(num_classes=5)  # It is the table that counts.
    with WeightServer(published.official_archive(arrays, tmp_path)) as server:
        monkeypatch.setenv(URL_VARIABLE, server.url)
        for tag, size, crop, normalization, labels in (
            ("imagenet21k", 224, "v2", "centered", None),
            ("imagenet21k-ft1k", 224, "whole", "inception", "imagenet"),
        ):
            opened = open_weights(NAME, tag)
            settings = {key.split(".")[1]: value for key, value in opened.settings.items()}
            assert settings.pop("num_classes") == 5
            assert settings == {
                "isize": size,
                "eval_crop": crop,
                "resize_method": "bilinear",
                "normalization": normalization,
            }
            assert opened.labels == labels


def test_settings_of_a_path(tmp_path, arrays):
    path = published.save_official(arrays, tmp_path / "model")
    opened = open_weights(NAME, path)
    assert opened.settings == {"data.num_classes": 1000}  # The file knows no more.
    assert opened.labels is None
    headless = {name: array for name, array in arrays.items() if "dense" not in name}
    path = published.save_official(headless, tmp_path / "headless")
    with pytest.raises(UserError, match="headless has no classifier; it can name no classes$"):
        open_weights(NAME, path)


def test_settings_of_pytorchs_weights_have_its_padding(monkeypatch, tmp_path, arrays):
    path = published.save_official(arrays, tmp_path / "model")
    from efficientnetv2.weights import resolve

    stored = dataclasses.replace(resolve.read_weights(path), padding="symmetric", num_classes=9)
    monkeypatch.setattr(resolve, "read_weights", lambda path, use_ema: stored)
    settings = open_weights(NAME, path).settings
    assert settings == {"data.num_classes": 9, "model.padding": "symmetric"}


def test_a_run_is_refused_for_its_settings_lie_beside_it(tmp_path):
    """Else its weights would be used with another preparation than they were trained with."""
    import tensorflow as tf

    run = str(tmp_path / "run")
    run_dir.start_run(run, hparams.get_config(NAME, "shapes"), ("a", "b"))
    weights = {"stem_conv/kernel": tf.Variable([1.0]), "classifier/bias": tf.Variable([0.0, 0.0])}
    saved = tf.train.Checkpoint(weights=weights)
    tf.train.CheckpointManager(saved, run, 1, checkpoint_name="ckpt").save(checkpoint_number=3)
    for path in (run, os.path.join(run, "ckpt-3")):
        with pytest.raises(UserError, match=f"^{path} is of a run, .*: give --model_dir={run}$"):
            open_weights(NAME, path)
    os.remove(os.path.join(run, run_dir.CONFIG_FILE))
    assert open_weights(NAME, run).settings == {"data.num_classes": 2}
