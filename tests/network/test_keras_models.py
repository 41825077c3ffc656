"""Architectures of `keras.applications`: they say what the library's own say, and train here."""

import functools
import importlib
import json
import pathlib
import re

import keras
import keras_sources
import numpy as np
import pytest
import tensorflow as tf
import tiny_run

from efficientnetv2 import build_model, hparams, load_weights
from efficientnetv2.common.errors import UserError
from efficientnetv2.export.saved_model import export_saved_model
from efficientnetv2.network.compat import KERAS3, numbered_from_zero, tf_variable, var_path
from efficientnetv2.network.keras_models import (
    CaffePreprocessing,
    list_keras_models,
    preprocessing_layer,
    smallest_image,
)
from efficientnetv2.training.trainer import Trainer

CLASSES, SIZE = 7, 32
SHAPE = (SIZE, SIZE, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
NAME = "keras/MobileNetV2"


def constructor(name):
    return getattr(keras.applications, name.removeprefix("keras/"))


def module_of(name):
    return importlib.import_module(constructor(name).__module__)


ONE_OF_EACH_MODULE = sorted({module_of(name): name for name in list_keras_models()}.values())


def check_close(ours, theirs):
    theirs = np.asarray(theirs)
    # Else it would not matter what the images are.
    assert np.abs(theirs[0] - theirs[1]).max() > 1e-2 * np.std(theirs) > 0
    np.testing.assert_array_less(np.abs(np.asarray(ours) - theirs), 1e-4 * np.std(theirs))


@pytest.mark.parametrize("name", ONE_OF_EACH_MODULE)
def test_pixels_are_prepared_as_the_library_prepares_them(name):
    pixels = np.random.default_rng(2).uniform(0, 255, (2, 3, 4, 3)).astype(np.float32)
    expected = module_of(name).preprocess_input(pixels.copy())
    layer = preprocessing_layer(name)
    prepared = pixels if layer is None else np.asarray(layer(pixels))
    np.testing.assert_allclose(prepared, expected, rtol=1e-5, atol=1e-4)
    assert prepared.dtype == np.float32


def test_the_smallest_image_is_the_librarys():
    for name in ONE_OF_EACH_MODULE:
        with pytest.raises(ValueError, match="Input size must be at least") as error:
            constructor(name)(include_top=False, weights=None, input_shape=(1, 1, 3))
        assert smallest_image(name) == int(re.search(r"at least (\d+)x", str(error.value))[1])


@pytest.fixture(scope="module")
def reference():
    """MobileNetV2 as the library builds it, with its own classifier."""
    network = keras.applications.MobileNetV2(
        weights=None, classes=CLASSES, classifier_activation=None, input_shape=SHAPE
    )
    keras_sources.set_weights(network, gain=2.0)
    return network


@pytest.fixture(scope="module")
def mobile(reference):
    """Ours, of any image size, with the same weights."""
    model = build_model(NAME, num_classes=CLASSES)
    model.set_weights(reference.get_weights())
    return model


def test_says_what_the_library_says(reference, mobile):
    prepare = keras.applications.mobilenet_v2.preprocess_input
    expected = reference(prepare(PIXELS.astype(np.float32)), training=False)
    for pixels in (PIXELS, PIXELS.astype(np.float32)):
        logits = mobile(pixels, training=False)
        check_close(logits, expected)
        assert logits.dtype == "float32"
    assert (mobile.name, mobile.output_shape) == ("MobileNetV2", (None, CLASSES))
    assert mobile(np.zeros((1, 40, 56, 3), np.uint8)).shape == (1, CLASSES)


def test_says_what_the_librarys_resnet_says():
    """Its preprocessing also swaps the colours."""
    network = keras.applications.ResNet50(
        weights=None, classes=CLASSES, classifier_activation=None, input_shape=SHAPE
    )
    model = build_model("keras/ResNet50", num_classes=CLASSES, input_shape=SHAPE)
    keras_sources.set_weights(network, gain=2.0)
    model.set_weights(network.get_weights())
    prepared = keras.applications.resnet.preprocess_input(PIXELS.astype(np.float32))
    check_close(model(PIXELS, training=False), network(prepared, training=False))


def test_without_preprocessing_and_without_top(reference, mobile):
    bare = build_model(NAME, include_top=False, include_preprocessing=False)
    bare.set_weights(mobile.get_weights()[:-2])
    features = np.asarray(bare(PIXELS / np.float32(127.5) - 1, training=False))
    assert features.shape == (2, 1280)
    kernel, bias = mobile.get_layer("classifier").get_weights()
    check_close(features @ kernel + bias, mobile(PIXELS, training=False))
    grey = build_model(NAME, num_classes=2, in_channels=1, include_preprocessing=False)
    assert grey(np.zeros((1, SIZE, SIZE, 1), np.float32)).shape == (1, 2)


def test_networks_that_normalise_inside_can_leave_it_out_where_the_library_can():
    name = "keras/MobileNetV3Small"
    whole = build_model(name, num_classes=2, input_shape=(64, 64, 3))
    bare = build_model(name, num_classes=2, include_preprocessing=False)
    bare.set_weights(whole.get_weights())
    pixels = np.random.default_rng(4).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    # By the statistics of the batch: with those at the start, images leave no trace.
    expected = whole(pixels, training=True)
    check_close(bare(pixels / np.float32(127.5) - 1, training=True), expected)
    with pytest.raises(UserError, match="EfficientNetB0 normalises inside; build it with incl"):
        build_model("keras/EfficientNetB0", include_preprocessing=False)


def test_the_caffe_layer_survives_a_file(tmp_path):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, CaffePreprocessing(name="normalization")(inputs))
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    expected = PIXELS[..., ::-1] - np.float32([103.939, 116.779, 123.68])
    np.testing.assert_allclose(again(PIXELS), expected, atol=1e-4)


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("keras/ResNetXX50", {}, r"^Keras [\d.]+ has no architecture 'keras/ResNetXX50'; did you "),
        ("keras/resnet", {}, "has no architecture 'keras/resnet'; did you mean 'keras/"),
        (NAME, {"drop_path_rate": 0.1}, "MobileNetV2 has no setting drop_path_rate; it is built "),
        (NAME, {"norm": "group", "padding": "same"}, "has no setting norm, padding; it is built"),
        (NAME, {"in_channels": 1}, "takes 3 channels, got 1; for another number build it with inc"),
        (NAME, {"input_shape": (16, 64, 3)}, "MobileNetV2: Input size must be at least 32x32; Re"),
        ("keras/NASNetMobile", {}, "NASNetMobile is built for one image size: build_model needs "),
        (NAME, {"weights": "imagenet21k"}, "weights=imagenet21k"),
        (NAME, {"weights": "/nowhere/a.h5"}, "weights=/nowhere/a.h5"),
    ],
)
def test_what_cannot_be_built_is_a_user_error(name, settings, message):
    with pytest.raises(UserError, match=message) as error:
        build_model(name, **settings)
    assert "\n" not in str(error.value)


def test_an_architecture_that_only_keras_2_has():
    if KERAS3:
        with pytest.raises(UserError, match="no architecture 'keras/ResNetRS50'; did you mean "):
            build_model("keras/ResNetRS50")
    else:
        model = build_model("keras/ResNetRS50", num_classes=3)
        assert model(np.zeros((1, 64, 64, 3), np.uint8)).shape == (1, 3)


def test_weights_of_the_body_from_a_file(tmp_path, mobile, caplog):
    body = keras.applications.MobileNetV2(include_top=False, pooling="avg", weights=None)
    body.set_weights(mobile.get_weights()[:-2])
    path = str(tmp_path / "body.weights.h5")
    body.save_weights(path)
    model = build_model(NAME, num_classes=3, weights=path)
    assert f"{NAME} has the weights of {path} but in its classifier" in caplog.text
    for own, saved in zip(model.get_weights()[:-2], body.get_weights(), strict=True):
        np.testing.assert_array_equal(own, saved)
    (tmp_path / "bad.h5").write_text("nonsense")
    with pytest.raises(UserError, match="^keras/MobileNetV2: .*[Uu]nable to .*open file"):
        build_model(NAME, weights=str(tmp_path / "bad.h5"))


def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # Where nobody listens.
    utils = getattr(module_of("keras/VGG16"), "file_utils" if KERAS3 else "data_utils")
    get_file = functools.partial(utils.get_file, cache_dir=tmp_path)
    monkeypatch.setattr(utils, "get_file", get_file)
    with pytest.raises(UserError, match="^keras/VGG16: URL fetch failure on https://") as error:
        build_model("keras/VGG16", weights="imagenet")
    assert "\n" not in str(error.value)


def test_paths_do_not_depend_on_what_was_built_before():
    """Xception leaves layers without a name, which Keras numbers through a whole process."""
    keras.layers.Conv2D(1, 1), keras.layers.BatchNormalization()
    paths = list(map(var_path, build_model("keras/Xception").weights))
    unnamed = {path for path in paths if path.startswith("conv2d")}
    assert unnamed == {f"conv2d{number}/kernel" for number in ("", "_1", "_2", "_3")}
    assert "batch_normalization/gamma" in paths
    assert "block2_sepconv1/kernel" in paths  # Depthwise; the same on both generations.
    assert len(set(paths)) == len(paths)


def test_names_given_later_are_still_new():
    def names(count):
        return [keras.layers.Dense(1).name for _ in range(count)]

    before = names(2)
    for _ in range(2):
        with numbered_from_zero():
            inside = names(5)
            number = keras.backend.get_uid("stem_")  # By which ResNetRS names its parts.
        assert inside == ["dense", "dense_1", "dense_2", "dense_3", "dense_4"]
        assert number == 1
    with pytest.raises(ZeroDivisionError), numbered_from_zero():
        raise ZeroDivisionError
    after = names(2)
    assert len({*before, *after}) == 4
    assert not set(inside) & set(after)


def test_trains_resumes_loads_and_exports(tmp_path):
    settings = {
        "train.batch_size": 4,
        "train.epochs": 1,
        "train.stages": 1,
        "data.splits.train.num_images": 8,
        "train.isize": 32,
        "data.ibase": 32,
        "eval.isize": 32,
        "train.lr_warmup_epoch": 1,
    }
    text = ",".join(f"{key}={value}" for key, value in settings.items())
    config = hparams.get_config("keras/MobileNet", "shapes", text)
    stages, strategy = hparams.make_stages(config), tf.distribute.get_strategy()
    folder = str(tmp_path / "run")
    trainer = Trainer(config, stages, folder, strategy)
    before = trainer.model.get_weights()
    record = trainer.train(tiny_run.make_batches)
    assert trainer.step == stages[-1].end_step == 2
    assert np.isfinite(record["loss"])
    assert all(np.any(a != b) for a, b in zip(before, trainer.model.get_weights()))

    resumed = Trainer(config, stages, folder, strategy)
    assert resumed.step == 2
    model = resumed.model
    for own, trained in zip(model.get_weights(), trainer.model.get_weights(), strict=True):
        np.testing.assert_array_equal(own, trained)
    report = load_weights(model, folder)
    assert (report.step, report.used_ema, report.missing, report.unexpected) == (2, True, (), ())
    for weight in model.weights:
        average = trainer.average.by_path[var_path(weight)]
        np.testing.assert_array_equal(tf_variable(weight).numpy(), average.numpy())

    path = export_saved_model(model, str(tmp_path / "export"), config)  # It compares, too.
    served = tf.saved_model.load(path).signatures["predict_images"](images=tf.constant(PIXELS))
    expected = tf.nn.softmax(model(PIXELS, training=False))
    np.testing.assert_allclose(served["scores"], expected, atol=1e-5)
    card = json.loads((pathlib.Path(path) / "model_card.json").read_text())
    assert card["preprocessing"]["normalization"] == "of keras/MobileNet"
