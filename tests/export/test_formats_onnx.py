"""The ONNX file says in onnxruntime what the model says, and has nothing in it that slows it."""

from collections import Counter

import onnx
import pytest
import tiny_run

from efficientnetv2.export.formats import write_onnx


@pytest.fixture(scope="module")
def path(tmp_path_factory, frozen):
    path = str(tmp_path_factory.mktemp("onnx") / "model.onnx")
    write_onnx(frozen[0], 32, path)
    return path


def test_input_and_output_have_the_names_and_shapes_that_are_promised(path):
    def spec(value):
        tensor = value.type.tensor_type
        shape = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
        return value.name, tensor.elem_type, shape

    graph = onnx.load(path).graph
    assert [spec(v) for v in graph.input] == [("images", onnx.TensorProto.FLOAT, ["N", 32, 32, 3])]
    scores = ("scores", onnx.TensorProto.FLOAT, ["N", tiny_run.CLASSES])
    assert [spec(value) for value in graph.output] == [scores]


def test_channels_come_first_once_and_nothing_is_reshaped(path):
    """onnxruntime leaves its fast layout for each transpose and reshape."""
    graph = onnx.load(path).graph
    operations = Counter(node.op_type for node in graph.node)
    assert operations["Transpose"] == 1
    assert operations["Reshape"] == 0
    assert operations["Conv"] == 9  # Stem, 2 fused, 3 and 2 of squeeze-and-excite, head.
    read = {name for node in graph.node for name in node.input}
    assert {value.name for value in graph.initializer} <= read
