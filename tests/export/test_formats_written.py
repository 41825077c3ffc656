"""Formats beside the SavedModel: chosen by name, written, compared on examples, in the card."""

import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest
import tiny_run

from efficientnetv2 import hparams
from efficientnetv2.common.errors import UserError
from efficientnetv2.export.card import file_digests
from efficientnetv2.export.compare import ExportMismatch, from_split, to_compare
from efficientnetv2.export.formats import FORMATS, check_formats, write_formats
from efficientnetv2.export.saved_model import export_saved_model


def test_names_are_checked_before_anything_is_written(monkeypatch):
    assert check_formats(["saved_model"]) == ()
    assert check_formats(["onnx", "saved_model", "tflite", "onnx"]) == ("onnx", "tflite")
    with pytest.raises(
        UserError, match="^unknown --export_format='onx'; known are saved_model, tf"
    ):
        check_formats(["onx"])
    monkeypatch.setitem(
        FORMATS, "onnx", dataclasses.replace(FORMATS["onnx"], writes_with=("not_there",))
    )
    with pytest.raises(UserError, match="'onnx' needs the package 'not_there'; pip install"):
        check_formats(["onnx"])


def test_each_format_is_compared_on_labelled_examples(tmp_path, frozen, model, config, capsys):
    graph_def, scores_of = frozen
    names = ("tflite", "tflite_int8")
    found = write_formats(names, graph_def, model, config, str(tmp_path))
    images = from_split(config, "eval", 64)
    assert images.pixels.shape == (64, 32, 32, 3)
    assert images.pixels.min() >= 0 and 200 < images.pixels.max() <= 255
    expected = scores_of(images.pixels)
    accuracy = float(np.mean(expected.argmax(-1) == images.labels))
    shown = capsys.readouterr().out
    for name in names:
        row = found[name]
        assert row["file"] == FORMATS[name].file_name and (tmp_path / row["file"]).exists()
        assert row["compared_on"] == "64 examples of eval" and row["images"] == 64
        assert row["model_accuracy"] == pytest.approx(accuracy)
        answer = FORMATS[name].load(str(tmp_path))(images.pixels)
        assert row["max_difference"] == pytest.approx(np.abs(answer - expected).max(), abs=1e-5)
        assert row["agreement"] == np.mean(answer.argmax(-1) == expected.argmax(-1))
        assert f"{name:12} {row['file']} " in shown
    assert found["tflite"]["max_difference"] < 1e-4 < found["tflite_int8"]["max_difference"]
    assert found["tflite"]["warnings"] == []


def elsewhere(config):
    """The config of a data set that is not there."""
    return hparams.with_values(config, data__ds_name="folder", data__data_dir="/not/there")


def test_without_the_data_made_up_images_are_compared_and_nothing_is_calibrated(
    tmp_path, frozen, model, config
):
    images = to_compare(elsewhere(config))
    assert images.pixels.shape == (2, 32, 32, 3) and images.labels is None
    assert images.origin.startswith("2 made-up images, for ") and "/not/there" in images.origin
    found = write_formats(("tflite",), frozen[0], model, elsewhere(config), str(tmp_path))
    assert found["tflite"]["images"] == 2 and found["tflite"]["accuracy"] is None
    with pytest.raises(UserError, match="/not/there"):
        write_formats(("tflite_int8",), frozen[0], model, elsewhere(config), str(tmp_path))


def test_an_export_holds_them_and_its_card_tells_of_them(tmp_path, model, config):
    path = pathlib.Path(export_saved_model(model, str(tmp_path), config, formats=("tflite",)))
    card = json.loads((path / "model_card.json").read_text())
    assert card["formats"]["tflite"]["max_difference"] < 1e-4
    assert "model.tflite" in card["files"] and file_digests(str(path)) == card["files"]


def test_a_format_that_answers_otherwise_ends_the_export(tmp_path, model, config, monkeypatch):
    def broken(path):
        return lambda images: np.full((len(images), tiny_run.CLASSES), 1 / 12, np.float32)

    monkeypatch.setitem(FORMATS, "tflite", dataclasses.replace(FORMATS["tflite"], loader=broken))
    with pytest.raises(ExportMismatch, match="tflite differs from the model"):
        export_saved_model(model, str(tmp_path), config, formats=("tflite",))
    assert os.listdir(tmp_path) == []
