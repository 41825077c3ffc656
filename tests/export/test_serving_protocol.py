"""What clients of TensorFlow Serving send and get, through an adapter of its protocol.

The adapter is in tests/helpers/serving_protocol.py. It is no server: that one does not run here.
"""

import base64
import json
import pathlib
import re
import subprocess
import sys

import broken_files
import numpy as np
import pytest
import serving_protocol
import tensorflow as tf
import tiny_run
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from efficientnetv2.datasets.preprocess import preprocess_eval

SIZE, CLASSES = 32, tiny_run.CLASSES
FORMATS = sorted(path.name for path in (broken_files.DATA / "formats").iterdir())
POSITION = r"\bimage(?:_|\] \[)(\d+)\b"  # "image_1/DecodeImage", "[image] [1] [too large"
BROKEN = {name: row[1] for name, row in broken_files.FAULTS.items() if isinstance(row[1], bytes)}
BROKEN["not whole, of nothing but a header"] = broken_files.read_format("rgb.jpg")[:20]


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(exported)


@pytest.fixture(scope="module")
def expected(model, config):
    """Image bytes -> the scores of the Keras model."""

    def scores(encoded):
        data = config.data
        pixels = preprocess_eval(
            encoded, SIZE, crop=data.eval_crop, resize_method=data.resize_method, exact=True
        )
        return tf.nn.softmax(model(pixels[tf.newaxis], training=False))[0].numpy()

    return scores


def request_of(inputs: dict, signature: str = "", outputs=()) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = "photos"
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return predict_pb2.PredictRequest.FromString(request.SerializeToString())


def ask(loaded, inputs, signature="", outputs=()) -> dict[str, np.ndarray]:
    response = serving_protocol.predict(loaded, request_of(inputs, signature, outputs))
    response = predict_pb2.PredictResponse.FromString(response.SerializeToString())
    assert response.model_spec.signature_name == (signature or "serving_default")
    return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}


def in_base64(encoded: bytes) -> dict:
    return {"b64": base64.b64encode(encoded).decode()}


@pytest.mark.parametrize("count", [1, 3])
def test_bytes_by_grpc(loaded, images, expected, count):
    encoded = list(images.values())[:count]
    answer = ask(loaded, {"image_bytes": encoded})
    assert {name: (value.dtype.kind, value.shape) for name, value in answer.items()} == {
        "scores": ("f", (count, CLASSES)),
        "classes": ("i", (count, 5)),
        "labels": ("O", (count, 5)),
    }
    assert (answer["scores"].dtype, answer["classes"].dtype) == (np.float32, np.int64)
    for row, image in enumerate(encoded):
        scores = expected(image)
        np.testing.assert_allclose(answer["scores"][row], scores, atol=1e-6)
        best = np.argsort(-scores)[:5].tolist()
        assert answer["classes"][row].tolist() == best
        assert answer["labels"][row].tolist() == [f"class {index}".encode() for index in best]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("signature", ["predict_images", "predict_images_float"])
def test_pixels_by_grpc(loaded, model, signature, count):
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    pixels = pixels.astype(np.float32) if signature.endswith("float") else pixels
    answer = ask(loaded, {"images": pixels}, signature)
    scores = tf.nn.softmax(model(pixels, training=False))
    np.testing.assert_allclose(answer["scores"], scores, atol=1e-6)


def test_features_by_grpc(loaded):
    pixels = np.zeros((3, SIZE, SIZE, 3), np.uint8)
    [(name, features)] = ask(loaded, {"images": pixels}, "predict_features").items()
    assert (name, features.dtype, features.shape) == ("features", np.float32, (3, 16))


def test_an_output_filter(loaded, images):
    inputs = {"image_bytes": [images["wide.jpg"]]}
    assert set(ask(loaded, inputs, outputs=["classes"])) == {"classes"}
    with pytest.raises(tf.errors.InvalidArgumentError, match="not found in signature"):
        ask(loaded, inputs, outputs=["logits"])


@pytest.mark.parametrize("name", FORMATS)
def test_each_kind_of_image(loaded, expected, name):
    """JPEG, PNG, BMP and GIF: grey, CMYK, progressive, with alpha, of 1 and 16 bits, palettes."""
    encoded = broken_files.read_format(name)
    scores = ask(loaded, {"image_bytes": [encoded]})["scores"]
    np.testing.assert_allclose(scores[0], expected(encoded), atol=1e-6)
    status, answer = serving_protocol.rest_predict(
        loaded, json.dumps({"instances": [in_base64(encoded)]})
    )
    assert status == 200
    np.testing.assert_allclose(answer["predictions"][0]["scores"], scores[0], atol=1e-6)


@pytest.mark.parametrize("name", BROKEN)
def test_an_image_that_cannot_be_read_is_named_by_its_position(loaded, images, name):
    good = images["wide.jpg"]
    before = ask(loaded, {"image_bytes": [good]})["scores"]
    for position in range(3):
        encoded = [good] * 3
        encoded[position] = BROKEN[name]
        with pytest.raises(tf.errors.InvalidArgumentError) as told:
            ask(loaded, {"image_bytes": encoded})
        assert set(re.findall(POSITION, told.value.message)) == {str(position)}
        body = {"instances": [in_base64(image) for image in encoded]}
        status, answer = serving_protocol.rest_predict(loaded, json.dumps(body))
        assert status == 400
        assert set(re.findall(POSITION, answer["error"])) == {str(position)}
        after = ask(loaded, {"image_bytes": [good]})["scores"]
        np.testing.assert_allclose(after, before, atol=1e-6)


def test_a_large_image_is_told_so(loaded):
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large.*20000 20000"):
        ask(loaded, {"image_bytes": [broken_files.png_of(20_000, 20_000)]})


@pytest.mark.parametrize(
    ("inputs", "signature"),
    [
        ({"image_bytes": b"a scalar"}, ""),
        ({"images": [b"another name"]}, ""),
        ({"images": np.zeros((1, SIZE, SIZE, 3), np.float32)}, "predict_images"),
        ({"images": np.zeros((1, SIZE + 1, SIZE, 3), np.uint8)}, "predict_images"),
        ({"images": np.zeros((SIZE, SIZE, 3), np.uint8)}, "predict_images"),
    ],
)
def test_inputs_that_do_not_fit_are_an_invalid_argument(loaded, inputs, signature):
    with pytest.raises(tf.errors.InvalidArgumentError):
        ask(loaded, inputs, signature)


def test_rest_rows_and_columns_give_the_same(loaded, images):
    encoded = list(images.values())[:3]
    by_grpc = ask(loaded, {"image_bytes": encoded})
    bare = [in_base64(image) for image in encoded]
    rows = [{"image_bytes": one} for one in bare]
    for instances in (bare, rows):
        status, answer = serving_protocol.rest_predict(loaded, json.dumps({"instances": instances}))
        assert status == 200
        assert [set(row) for row in answer["predictions"]] == [{"scores", "classes", "labels"}] * 3
        for row, prediction in enumerate(answer["predictions"]):
            np.testing.assert_allclose(prediction["scores"], by_grpc["scores"][row], atol=1e-6)
            assert prediction["classes"] == by_grpc["classes"][row].tolist()
            assert prediction["labels"] == [name.decode() for name in by_grpc["labels"][row]]
    for columns in (bare, {"image_bytes": bare}):
        status, answer = serving_protocol.rest_predict(loaded, json.dumps({"inputs": columns}))
        assert status == 200
        np.testing.assert_allclose(answer["outputs"]["scores"], by_grpc["scores"], atol=1e-6)
        assert answer["outputs"]["classes"] == by_grpc["classes"].tolist()


def test_rest_takes_pixels_and_a_single_output_comes_without_its_name(loaded):
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    features = ask(loaded, {"images": pixels}, "predict_features")["features"]
    body = {"signature_name": "predict_features", "instances": pixels.tolist()}
    _, answer = serving_protocol.rest_predict(loaded, json.dumps(body))
    np.testing.assert_allclose(answer["predictions"], features, rtol=1e-5, atol=1e-6)
    body = {"signature_name": "predict_features", "inputs": {"images": pixels.tolist()}}
    _, answer = serving_protocol.rest_predict(loaded, json.dumps(body))
    np.testing.assert_allclose(answer["outputs"], features, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 400),
        ("{}", 400),
        ('{"instances": []}', 400),
        ('{"instances": [{"b64": "no base64"}]}', 400),
        ('{"instances": [{"wrong": {"b64": ""}}]}', 400),
        ('{"instances": ["plain text"]}', 400),
        ('{"signature_name": "predict_images", "instances": [[[[256, 0, 0]]]]}', 400),
        ('{"signature_name": "none", "instances": [1]}', 404),
    ],
)
def test_a_rest_request_that_cannot_be_answered(loaded, body, status):
    found, answer = serving_protocol.rest_predict(loaded, body)
    assert found == status
    assert set(answer) == {"error"}


def test_the_warm_up_requests_replay_as_they_are(exported, loaded):
    path = str(pathlib.Path(exported, "assets.extra", "tf_serving_warmup_requests"))
    batches = {}
    for record in tf.data.TFRecordDataset(path):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        response = serving_protocol.predict(loaded, request)
        scores = tf.make_ndarray(response.outputs["scores"])
        np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-5)
        batches.setdefault(request.model_spec.signature_name, []).append(len(scores))
    assert batches == {"serving_default": [1, 8, 32], "predict_images": [1, 8, 32]}


def test_messages_between_processes(exported, images, expected, tmp_path):
    """The one that answers can import neither Keras nor our code, and reads a message's bytes."""
    request = request_of({"image_bytes": list(images.values())})
    (tmp_path / "request").write_bytes(request.SerializeToString())
    code = f"""
import sys
for name in ("keras", "efficientnetv2"):
    sys.modules[name] = None
sys.path.insert(0, {str(pathlib.Path(serving_protocol.__file__).parent)!r})
import tensorflow as tf
import serving_protocol
from tensorflow_serving.apis import predict_pb2
request = predict_pb2.PredictRequest.FromString(open("request", "rb").read())
response = serving_protocol.predict(tf.saved_model.load({exported!r}), request)
open("response", "wb").write(response.SerializeToString())
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    response = predict_pb2.PredictResponse.FromString((tmp_path / "response").read_bytes())
    scores = tf.make_ndarray(response.outputs["scores"])
    for row, image in enumerate(images.values()):
        np.testing.assert_allclose(scores[row], expected(image), atol=1e-6)
