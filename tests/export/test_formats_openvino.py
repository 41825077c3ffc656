"""The OpenVINO model says what the model says."""

import os

import numpy as np
import openvino
import pytest
import tensorflow as tf
import tiny_run

from efficientnetv2.export.formats import load_openvino, write_openvino


@pytest.fixture(scope="module")
def path(tmp_path_factory, frozen):
    path = str(tmp_path_factory.mktemp("openvino") / "model.xml")
    write_openvino(frozen[0], 32, path)
    return path


def test_scores_of_one_call_survive_the_next(path, pixels):
    classify = load_openvino(path)
    first = classify(pixels[:2])
    kept = first.copy()
    classify(pixels[2:4])
    np.testing.assert_array_equal(first, kept)


def test_a_model_is_two_files_with_float32_weights(path, model):
    assert sorted(os.listdir(os.path.dirname(path))) == ["model.bin", "model.xml"]
    kernels = [weight for weight in model.trainable_variables if len(weight.shape) > 1]
    size = sum(4 * np.prod(weight.shape) for weight in kernels)
    assert os.path.getsize(path.replace(".xml", ".bin")) >= size


def test_input_and_output_have_the_names_and_shapes_that_are_promised(path):
    read = openvino.Core().read_model(path)
    (images,), (scores,) = read.inputs, read.outputs
    assert images.names == {"images"}
    assert images.partial_shape.to_string() == "[?,32,32,3]"
    assert scores.names == {"scores"}
    assert scores.partial_shape.to_string() == f"[?,{tiny_run.CLASSES}]"


def test_the_saved_model_itself_is_read(exported, pixels, tmp_path):
    """The graph of a signature of pixels; OpenVINO cannot decode images, so not that of bytes."""
    signature = tf.saved_model.load(exported).signatures["predict_images_float"]
    graph = signature.graph.as_graph_def()
    tf.io.write_graph(graph, str(tmp_path), "signature.pb", as_text=False)
    named = dict(zip(sorted(signature.structured_outputs), signature.outputs, strict=True))
    read = openvino.Core().read_model(tmp_path / "signature.pb")
    (scores,) = [output.node for output in read.outputs if named["scores"].name in output.names]
    (images,) = [one for one in read.get_parameters() if one.partial_shape.rank.get_length() == 4]
    part = openvino.Model([scores], [images], "scores")  # Without labels: they are strings.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    (found,) = openvino.Core().compile_model(part, "CPU", exact)(pixels).values()
    expected = signature(images=tf.constant(pixels))["scores"].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
