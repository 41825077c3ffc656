"""The TensorFlow Lite files say what the model says, as exactly as their numbers allow."""

import os
import sys

import numpy as np
import pytest
import tiny_run

from efficientnetv2.common.errors import UserError
from efficientnetv2.export.tflite import KINDS, load_tflite, open_interpreter, write_tflite


@pytest.fixture(scope="module")
def paths(tmp_path_factory, frozen, pixels):
    """A file of each kind."""
    folder = tmp_path_factory.mktemp("tflite")
    found = {kind: str(folder / f"{kind}.tflite") for kind in KINDS}
    for kind, path in found.items():
        write_tflite(frozen[0], 32, path, kind=kind, examples=iter(pixels))
    return found


def details(path):
    """(name, dtype, shape) of the inputs, then of the outputs."""
    interpreter = open_interpreter(path, 1)
    ends = interpreter.get_input_details(), interpreter.get_output_details()
    return [[(d["dtype"], d["shape"].tolist()) for d in end] for end in ends]


def test_every_kind_of_network_keeps_its_scores(tmp_path, variant, pixels):
    graph_def, scores_of = variant
    write_tflite(graph_def, 32, str(tmp_path / "model.tflite"), kind="float32")
    classify = load_tflite(str(tmp_path / "model.tflite"))
    expected = scores_of(pixels)
    assert expected.std(axis=0).max() > 0.01  # The images differ to the model.
    for count in (1, 3, 20, 1):
        scores = classify(pixels[:count])
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected[:count], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_other_runtimes_can_resize_the_batch(paths, pixels, kind):
    interpreter = open_interpreter(paths[kind], 1)
    (images,), (scores,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(images["index"], pixels.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(images["index"], np.round(pixels).astype(images["dtype"]))
    interpreter.invoke()
    together = interpreter.get_tensor(scores["index"])
    alone = load_tflite(paths[kind])(np.round(pixels))
    np.testing.assert_allclose(together, alone, atol=0.02 if kind == "int8" else 1e-5)


@pytest.mark.parametrize("kind, difference", [("float16", 2e-3), ("int8", 0.1)])
def test_rounding_costs_little(paths, frozen, pixels, kind, difference):
    scores, expected = load_tflite(paths[kind])(pixels), frozen[1](pixels)
    assert scores.dtype == np.float32
    assert 1e-5 < np.abs(scores - expected).max() < difference
    assert np.mean(scores.argmax(-1) == expected.argmax(-1)) >= 0.9


def test_scores_of_one_call_survive_the_next(paths, pixels):
    classify = load_tflite(paths["float32"])
    first = classify(pixels[:2])
    kept = first.copy()
    classify(pixels[2:4])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_taken_as_pixels(paths, pixels, kind):
    whole = np.round(pixels[:4])
    classify = load_tflite(paths[kind])
    np.testing.assert_array_equal(classify(whole), classify(whole.astype(np.uint8)))


def test_int8_takes_the_nearest_byte_of_a_pixel(paths, pixels):
    classify = load_tflite(paths["int8"])
    whole = np.round(pixels[:4])
    beyond = np.where(whole == 255, 258, np.where(whole == 0, -3, whole + 0.4)).astype(np.float32)
    np.testing.assert_array_equal(classify(beyond), classify(whole))


def test_inputs_and_outputs_have_the_types_and_shapes_that_are_promised(paths):
    scores = [(np.float32, [1, tiny_run.CLASSES])]
    for kind, dtype in (("float32", np.float32), ("float16", np.float32), ("int8", np.uint8)):
        assert details(paths[kind]) == [[(dtype, [1, 32, 32, 3])], scores], kind


def test_int8_has_integers_up_to_the_classifier(paths, pixels):
    interpreter = open_interpreter(paths["int8"], 1)
    tensors = interpreter.get_tensor_details()
    classes, features = tiny_run.CLASSES, 16
    floats = [t["shape"].tolist() for t in tensors if t["dtype"] == np.float32]
    scores = [1, classes]
    assert sorted(floats) == [scores, scores, [1, features], [classes], [classes, features]]
    assert len(np.unique(load_tflite(paths["int8"])(pixels))) > 200  # Not 256 levels of score.
    bytes_ = [tensor for tensor in tensors if tensor["dtype"] == np.int8]
    scales = [len(tensor["quantization_parameters"]["scales"]) for tensor in bytes_]
    assert len(scales) > 20
    assert sum(count > 1 for count in scales) >= 9  # Each filter has one scale per channel.


def test_int8_takes_every_kind_of_network(tmp_path, variant, pixels):
    graph_def, scores_of = variant
    path = str(tmp_path / "model.tflite")
    write_tflite(graph_def, 32, path, kind="int8", examples=pixels)
    scores, expected = load_tflite(path)(pixels), scores_of(pixels)
    assert np.abs(scores - expected).max() < 0.15
    assert np.mean(scores.argmax(-1) == expected.argmax(-1)) >= 0.9


def test_rounded_files_are_smaller(paths):
    size = {kind: os.path.getsize(path) for kind, path in paths.items()}
    assert size["float16"] < size["float32"]
    assert size["int8"] < size["float32"]


def test_without_litert_the_interpreter_is_tensorflows(paths, frozen, pixels, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    scores = load_tflite(paths["float32"])(pixels)
    np.testing.assert_allclose(scores, frozen[1](pixels), atol=1e-5)


def test_int8_without_examples_is_a_user_error(tmp_path, frozen):
    for examples in (None, [], iter([])):
        with pytest.raises(UserError, match="int8 needs examples"):
            write_tflite(frozen[0], 32, str(tmp_path / "x"), kind="int8", examples=examples)
    assert not list(tmp_path.iterdir())


def test_an_unknown_kind_is_a_user_error(tmp_path, frozen):
    with pytest.raises(UserError, match="float32, float16, int8, not 'int4'"):
        write_tflite(frozen[0], 32, str(tmp_path / "x"), kind="int4")
