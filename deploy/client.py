"""Image classification with TensorFlow Serving by gRPC: pip install tensorflow-serving-api.

    python deploy/client.py photo.jpg more.png --server=localhost:8500 --model=photos --label=stable

Prints a line of JSON per image. Does not need any other file of this project.
"""

import argparse
import json
import sys

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

_MEGABYTES = 64  # Limit per message; gRPC's default is 4.


def ask(server: str, model: str, images: list[bytes], label: str = "", seconds: float = 30) -> dict:
    """Returns the outputs of `serving_default` for encoded images, as arrays by name.

    `label` selects a version by its label; by default, the newest is used.
    Raises: grpc.RpcError; its code is INVALID_ARGUMENT if an image cannot be read.
    """
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = "serving_default"
    if label:
        request.model_spec.version_label = label
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(images, dtype=tf.string))
    limits = [(f"grpc.max_{way}_message_length", _MEGABYTES * 2**20) for way in ("send", "receive")]
    with grpc.insecure_channel(server, options=limits) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = stub.Predict(request, timeout=seconds)
    return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--server", default="localhost:8500")
    parser.add_argument("--model", default="photos")
    parser.add_argument("--label", default="")
    given = parser.parse_args()
    contents = []
    for path in given.images:
        with open(path, "rb") as file:
            contents.append(file.read())
    try:
        outputs = ask(given.server, given.model, contents, given.label)
    except grpc.RpcError as error:
        print(f"error: {error.code().name}: {error.details()}", file=sys.stderr)
        return 2
    for row, path in enumerate(given.images):
        classes = outputs["classes"][row]
        names = outputs["labels"][row] if "labels" in outputs else classes
        top = {
            name.decode() if isinstance(name, bytes) else str(name): float(
                outputs["scores"][row, c]
            )
            for name, c in zip(names, classes, strict=True)
        }
        print(json.dumps({"image": path, "top": top}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
