"""TensorFlow Serving's protocol around a loaded SavedModel: messages in, messages out.

An adapter, no server: it follows the rules of the documentation in this process, so that requests
as clients write them can be tested. It needs TensorFlow and its serving API, nothing of ours.

Source: https://www.tensorflow.org/tfx/serving/api_rest and tensorflow_serving/apis/*.proto
"""

import base64
import json

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

DEFAULT = "serving_default"
_STATUS = {"InvalidArgumentError": 400, "NotFoundError": 404}


def predict(loaded, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
    """Answers a request, by any signature.

    Raises: tf.errors.InvalidArgumentError, as gRPC's INVALID_ARGUMENT, and NotFoundError.
    """
    name = request.model_spec.signature_name or DEFAULT
    inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
    outputs = _run(loaded, name, inputs)
    wanted = list(request.output_filter) or sorted(outputs)
    if unknown := set(wanted) - set(outputs):
        raise _invalid(f"output tensor alias not found in signature: {sorted(unknown)}")
    response = predict_pb2.PredictResponse(model_spec=request.model_spec)
    response.model_spec.signature_name = name
    for key in wanted:
        response.outputs[key].CopyFrom(tf.make_tensor_proto(outputs[key]))
    return response


def rest_predict(loaded, body: str) -> tuple[int, dict]:
    """Answers the body of POST …:predict; returns the HTTP status and the JSON of the answer."""
    try:
        return 200, _rest_answer(loaded, body)
    except tf.errors.OpError as error:
        return _STATUS[type(error).__name__], {"error": error.message}


class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """`predict` for a gRPC server."""

    def __init__(self, loaded):
        self.loaded = loaded

    def Predict(self, request, context):
        try:
            return predict(self.loaded, request)
        except tf.errors.InvalidArgumentError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)


def _invalid(text: str) -> tf.errors.InvalidArgumentError:
    return tf.errors.InvalidArgumentError(None, None, text)


def _run(loaded, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Runs a signature, after the checks that a session makes of what it is fed."""
    if name not in loaded.signatures:
        raise tf.errors.NotFoundError(None, None, f'Serving signature key "{name}" not found.')
    specs = loaded.signatures[name].structured_input_signature[1]
    if set(inputs) != set(specs):
        raise _invalid(f"inputs are {sorted(inputs)}, the signature has {sorted(specs)}")
    tensors = {}
    for key, spec in specs.items():
        tensors[key] = tf.constant(inputs[key])
        found = tensors[key].dtype, tensors[key].shape
        if found[0] != spec.dtype or not spec.shape.is_compatible_with(found[1]):
            raise _invalid(f"{key} is {found[0].name} {found[1]}, the signature has {spec}")
    return {key: tensor.numpy() for key, tensor in loaded.signatures[name](**tensors).items()}


def _rest_answer(loaded, body: str) -> dict:
    try:
        content = json.loads(body)
    except ValueError as error:
        raise _invalid(f"JSON Parse error: {error}") from error
    name = content.get("signature_name") or DEFAULT
    rows, columns = content.get("instances"), content.get("inputs")
    if (rows is None) == (columns is None):
        raise _invalid("Missing or both of 'inputs' and 'instances' in request")
    if name not in loaded.signatures:
        raise tf.errors.NotFoundError(None, None, f'Serving signature key "{name}" not found.')
    specs = loaded.signatures[name].structured_input_signature[1]
    named = _columns_of_rows(rows, specs) if columns is None else _named(columns, specs)
    inputs = {key: _array(value, specs[key]) for key, value in named.items() if key in specs}
    outputs = _run(loaded, name, inputs | {key: None for key in set(named) - set(specs)})
    shown = {key: _shown(key, value) for key, value in outputs.items()}
    single = next(iter(shown)) if len(shown) == 1 else None
    if columns is not None:
        return {"outputs": shown[single] if single else shown}
    if single:
        return {"predictions": shown[single]}
    return {"predictions": [dict(zip(shown, row)) for row in zip(*shown.values())]}


def _is_bytes(value) -> bool:
    return isinstance(value, dict) and set(value) == {"b64"}


def _named(value, specs) -> dict:
    """Of one input the name may be left out."""
    if isinstance(value, dict) and not _is_bytes(value):
        return value
    if len(specs) != 1:
        raise _invalid("a bare value needs a signature with one input")
    return {next(iter(specs)): value}


def _columns_of_rows(rows: list, specs) -> dict:
    if not isinstance(rows, list) or not rows:
        raise _invalid("'instances' must be a list that is not empty")
    named = [_named(row, specs) for row in rows]
    if any(set(row) != set(named[0]) for row in named):
        raise _invalid("instances have different inputs")
    return {key: [row[key] for row in named] for key in named[0]}


def _array(value, spec) -> np.ndarray:
    def decoded(one):
        if isinstance(one, list):
            return [decoded(item) for item in one]
        if _is_bytes(one):
            return base64.b64decode(one["b64"], validate=True)
        return one.encode() if isinstance(one, str) else one

    try:
        array = np.array(decoded(value), object if spec.dtype == tf.string else None)
    except ValueError as error:  # Ragged rows, bad base64.
        raise _invalid(f"{spec.name}: {error}") from error
    if spec.dtype == tf.uint8 and (array.dtype.kind != "i" or array.min() < 0 or array.max() > 255):
        raise _invalid(f"{spec.name}: pixels must be integers from 0 to 255")
    return array if spec.dtype == tf.string else array.astype(spec.dtype.as_numpy_dtype)


def _shown(name: str, value: np.ndarray):
    """Strings are text, but base64 where the name of the output ends in `_bytes`."""

    def text(one):
        if isinstance(one, list):
            return [text(item) for item in one]
        if name.endswith("_bytes"):
            return {"b64": base64.b64encode(one).decode()}
        return one.decode()

    return text(value.tolist()) if value.dtype == object else value.tolist()
