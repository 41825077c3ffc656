"""The table of formats: each is written, found again and loaded by its name."""

import importlib.util
import os

import numpy as np
import pytest

from efficientnetv2.common.errors import UserError
from efficientnetv2.export.compare import check, compare
from efficientnetv2.export.formats import FORMATS, find_format


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_written_to_its_file_and_answers(tmp_path, frozen, pixels, name):
    graph_def, scores_of = frozen
    row = find_format(name)
    path = row.write(graph_def, 32, str(tmp_path), examples=pixels)
    assert path == str(tmp_path / row.file_name)
    assert os.path.getsize(path) > 1000
    parity = compare(row.load(str(tmp_path)), scores_of, pixels)
    check(parity, name, quantised=row.quantised)
    assert parity.agreement >= 0.9
    assert (parity.max_difference > 1e-5) == row.quantised


@pytest.mark.parametrize("name", ["onnx", "openvino"])  # Those of any batch; test_tflite has more.
def test_every_kind_of_network_keeps_its_scores(tmp_path, variant, pixels, name):
    graph_def, scores_of = variant
    find_format(name).write(graph_def, 32, str(tmp_path))
    classify = find_format(name).load(str(tmp_path))
    expected = scores_of(pixels)
    assert expected.std(axis=0).max() > 0.01  # The images differ to the model.
    for count in (1, 3, 20):
        scores = classify(pixels[:count])
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected[:count], atol=1e-5)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_bytes_are_taken_as_pixels(tmp_path, frozen, pixels, name):
    find_format(name).write(frozen[0], 32, str(tmp_path))
    whole = np.round(pixels).astype(np.uint8)
    scores = find_format(name).load(str(tmp_path))(whole)
    np.testing.assert_allclose(scores, frozen[1](whole), atol=1e-5)


def test_file_names_do_not_collide():
    assert len({row.file_name for row in FORMATS.values()}) == len(FORMATS)


@pytest.mark.parametrize("name, module", [("onnx", "tf2onnx"), ("openvino", "openvino")])
def test_a_missing_package_is_a_user_error_before_any_work(tmp_path, monkeypatch, name, module):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda other: None if other == module else find_spec(other)
    )
    fix = f"{name}.*{module}.*pip install -e .*\\[export\\]"
    with pytest.raises(UserError, match=fix):
        find_format(name).check_installed()
    with pytest.raises(UserError, match=fix):
        find_format(name).write(None, 32, str(tmp_path))


def test_what_runs_a_file_is_needed_to_load_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(UserError, match="onnxruntime"):
        find_format("onnx").load(str(tmp_path))


def test_a_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no model.onnx in .*; export it as 'onnx' first"):
        find_format("onnx").load(str(tmp_path))


def test_an_unknown_format_is_a_user_error():
    with pytest.raises(UserError, match="unknown format 'caffe'; known are tflite, tflite_fp16"):
        find_format("caffe")


def test_examples_reach_the_format_that_needs_them(tmp_path, frozen):
    with pytest.raises(UserError, match="int8 needs examples"):
        find_format("tflite_int8").write(frozen[0], 32, str(tmp_path))
    np.testing.assert_equal([r.name for r in FORMATS.values() if r.needs_examples], ["tflite_int8"])
