"""Weights to start a fine-tuning from: a file, a name, a run, an architecture of Keras."""

import os

import keras
import keras_sources
import numpy as np
import published
import pytest
import tensorflow as tf

from efficientnetv2 import build_model, hparams
from efficientnetv2.common.errors import UserError
from efficientnetv2.network.compat import tf_variable, var_path
from efficientnetv2.training import run_dir
from efficientnetv2.training.starting_weights import open_starting_weights

NAME = published.SPEC.name


def values(model):
    return {var_path(w): tf_variable(w).numpy() for w in model.weights}


def changed(model, before):
    return {path.split("/")[0] for path, v in values(model).items() if (v != before[path]).any()}


@pytest.mark.parametrize(("classes", "keeps_classifier"), [(1000, True), (7, False)])
def test_a_checkpoint_brings_its_preprocessing_and_all_but_a_foreign_classifier(
    classes, keeps_classifier, tmp_path
):
    arrays = published.official_arrays()
    path = published.save_official(arrays, tmp_path / "model")
    start = open_starting_weights(NAME, path)
    assert "data.num_classes" not in start.settings  # They are the data's, not the file's.
    model = build_model(published.SPEC, num_classes=classes)
    before = values(model)
    text = start(model)
    assert path in text
    assert ("the classifier too" if keeps_classifier else "starts at random") in text
    layers = {path.split("/")[0] for path in before}
    # Biases, beta and the like start at the same values, so that whole layers are compared.
    assert changed(model, before) == (layers if keeps_classifier else layers - {"classifier"})
    np.testing.assert_array_equal(
        values(model)["stem_conv/kernel"], arrays[f"{NAME}/stem/conv2d/kernel"]
    )


@pytest.mark.filterwarnings(*keras_sources.WARNINGS)
def test_a_file_of_keras_brings_its_normalization(tmp_path):
    model = keras_sources.small_v2()
    keras_sources.set_weights(model)
    path = str(tmp_path / "small.h5")
    model.save(path)
    start = open_starting_weights(NAME, path)
    assert start.settings["model.normalization"] == "imagenet"
    config = hparams.get_config(
        NAME,
        "folder",
        f"train.ft_init_ckpt={path},eval.isize=48",
        data_dir="photos",
        weights_settings=start.settings,
    )
    assert config.eval.isize == 48  # What the user says wins over what the file brings,
    assert config.model.normalization == "imagenet"
    assert (config.train.batch_size, config.train.stages) == (32, 1)  # and over the defaults.
    ours = build_model(keras_sources.V2_SPEC, num_classes=3)
    assert "classifier for 3 classes starts at random" in start(ours)


def make_run(folder, **model_settings):
    settings = {f"model__{key}": value for key, value in model_settings.items()}
    config = hparams.get_config(NAME, "shapes", "data.eval_crop=whole,eval.isize=64")
    config = hparams.with_values(config, **settings)
    names = tuple(f"class{i}" for i in range(12))
    run_dir.start_run(str(folder), config, names)
    model = build_model(published.SPEC, num_classes=12)
    weights = {var_path(w): tf_variable(w) for w in model.weights}
    averages = {path: tf.Variable(w + 1.0) for path, w in weights.items()}
    checkpoint = tf.train.Checkpoint(
        step=tf.Variable(5, dtype=tf.int64), weights=weights, ema=averages
    )
    manager = tf.train.CheckpointManager(checkpoint, str(folder), 1, checkpoint_name="ckpt")
    manager.save(checkpoint_number=5)
    return values(model)


@pytest.mark.parametrize(("use_ema", "added"), [(True, 1.0), (False, 0.0)])
def test_a_run_brings_its_network_and_its_average(use_ema, added, tmp_path):
    os.makedirs(tmp_path / "run")
    stored = make_run(tmp_path / "run", act_fn="relu", stem_stride=1)
    start = open_starting_weights(NAME, str(tmp_path / "run"), use_ema)
    assert start.settings["model.act_fn"] == "relu"
    assert start.settings["model.stem_stride"] == 1
    assert start.settings["data.eval_crop"] == "whole"
    assert start.settings["eval.isize"] == 64
    assert "model.dropout_rate" not in start.settings
    model = build_model(published.SPEC, num_classes=12)
    assert ("averaged" in start(model)) == use_ema
    for path, value in values(model).items():
        np.testing.assert_array_equal(value, stored[path] + np.float32(added))


def test_a_run_of_another_network_is_refused(tmp_path):
    make_run(tmp_path)
    with pytest.raises(UserError, match=f"is a run of {NAME}; give --model_name={NAME}"):
        open_starting_weights("efficientnetv2-s", str(tmp_path))


def test_weights_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(UserError, match="no weights file"):
        open_starting_weights(NAME, str(tmp_path / "missing.h5"))


def test_an_architecture_of_keras_takes_what_its_library_reads(tmp_path):
    name = "keras/MobileNetV2"
    body = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3))
    path = str(tmp_path / "body.weights.h5")
    body.save_weights(path)
    model = build_model(name, num_classes=4)
    before = values(model)
    text = open_starting_weights(name, path)(model)
    assert "starts at random" in text
    kernel = "Conv1/kernel"
    own = {w.name.split(":")[0]: w for w in body.get_layer("Conv1").weights}
    expected = next(iter(own.values()))
    np.testing.assert_array_equal(values(model)[kernel], tf_variable(expected).numpy())
    assert "classifier" not in changed(model, before)
