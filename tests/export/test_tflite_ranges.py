"""Ranges are those of the values, without outliers, and lie behind what is stored."""

import numpy as np
import pytest
import tensorflow as tf

from efficientnetv2.export.frozen import as_function
from efficientnetv2.export.tflite import with_ranges


@pytest.fixture(scope="module")
def ranged(frozen, pixels):
    return with_ranges(frozen[0], iter(pixels))


def range_of(graph_def, name):
    values = {node.name: node.attr["value"].tensor for node in graph_def.node}
    return [float(tf.make_ndarray(values[f"{name}/{end}"])) for end in ("lower", "upper")]


def test_the_graph_still_says_nearly_the_same(ranged, frozen, pixels):
    scores = as_function(ranged)(tf.constant(pixels))[0].numpy()
    difference = np.abs(scores - frozen[1](pixels)).max()
    assert 1e-4 < difference < 0.1


def test_what_is_stored_has_a_range_and_what_is_fused_has_none(ranged):
    operations = {node.name: node.op for node in ranged.node}
    behind = {
        operations[node.input[0]] for node in ranged.node if node.op == "FakeQuantWithMinMaxVars"
    }
    assert behind - {"Sub"} == {"Placeholder", "Mul", "AddV2", "BiasAdd", "Sigmoid", "Mean"}
    unranged = {
        operations[name]
        for node in ranged.node
        for name in node.input
        if node.op not in ("FakeQuantWithMinMaxVars", "Identity")
    }
    allowed = {"FakeQuantWithMinMaxVars", "Conv2D", "DepthwiseConv2dNative", "MatMul"}
    allowed |= {"Const", "Reshape", "Squeeze"}  # The latter of constants, in Keras 3.
    assert unranged <= allowed | {"BiasAdd"}  # That of the logits.
    logits = [node for node in ranged.node if node.op == "Softmax"]
    assert [operations[node.input[0]] for node in logits] == ["BiasAdd"]


def test_bytes_and_sigmoids_have_the_ranges_that_their_levels_demand(ranged):
    assert range_of(ranged, "images") == [0, 255]
    sigmoids = [node.name for node in ranged.node if node.op == "Sigmoid"]
    assert {tuple(range_of(ranged, name)) for name in sigmoids} == {(0.0, 255 / 256)}


def test_a_range_leaves_out_outliers_and_keeps_zero(frozen):
    """Of the normalised pixels, whose values are known."""
    images = np.full((8, 32, 32, 3), 128, np.float32)
    images[:, :8] = 192
    images[0, -1, -1, 0] = 255  # One value of 24,576.
    graph_def = with_ranges(frozen[0], images)
    first = next(node for node in frozen[0].node if "images" in node.input)
    function = tf.compat.v1.wrap_function(
        lambda: tf.graph_util.import_graph_def(frozen[0], name=""), []
    ).prune("images:0", f"{first.name}:0")
    values = function(tf.constant(images)).numpy()
    lower, upper = range_of(graph_def, first.name)
    assert upper == pytest.approx(np.sort(values.ravel())[-3], rel=1e-5)
    assert upper < values.max()
    assert lower <= 0 <= upper
