"""Latency of a server under concurrent requests, and whether answers are lost or wrong.

    python -m benchmarks.serving_load --export_dir=EXPORT IMAGE... [--clients=8] [--seconds=60]
    python -m benchmarks.serving_load --server=localhost:8500 --model=photos IMAGE...

Each client sends one image at a time to `serving_default` by gRPC, and the next one as soon as it
has the answer; every answer is compared with that for the same image without other load. The first
form starts its own server: gRPC around the SavedModel, TensorFlow Serving's messages, no batching;
--threads limits the threads of one operation. The second form queries a running server.
Prints the number of answers, of lost and of wrong ones, images per second, milliseconds at p50,
p90, p99 and the slowest, and the memory of its own server before and after. Exits with 1 if any
answer was lost or wrong.
"""

import argparse
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from benchmarks.processes import MeasuringProcess


class OwnServer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Serves `serving_default` of a loaded SavedModel."""

    def __init__(self, export_dir: str):
        self.loaded = tf.saved_model.load(export_dir)
        self.function = self.loaded.signatures["serving_default"]

    def Predict(self, request, context):
        response = predict_pb2.PredictResponse(model_spec=request.model_spec)
        images = tf.constant(tf.make_ndarray(request.inputs["image_bytes"]))
        try:
            answers = self.function(image_bytes=images)
        except tf.errors.InvalidArgumentError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        for name, value in answers.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
        return response


def serve(export_dir: str, threads: int, workers: int) -> None:
    """Runs the server process: prints its port, then its memory use, once per line it reads."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    server = grpc.server(futures.ThreadPoolExecutor(workers))
    service = OwnServer(export_dir)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    print(json.dumps({"port": port}), flush=True)
    for _ in sys.stdin:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        print(json.dumps({"megabytes": pages * os.sysconf("SC_PAGE_SIZE") / 2**20}), flush=True)
    server.stop(None)


class Client:
    """A client that sends images by one connection and counts the answers."""

    def __init__(self, server: str, model: str, images: list[bytes], expected: list):
        self.channel = grpc.insecure_channel(server)
        self.stub = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model, self.images, self.expected = model, images, expected
        self.seconds: list[float] = []
        self.lost: list[str] = []
        self.wrong = 0

    def scores(self, image: bytes) -> np.ndarray:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = self.model
        request.model_spec.signature_name = "serving_default"
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([image], tf.string))
        return tf.make_ndarray(self.stub.Predict(request, timeout=60).outputs["scores"])

    def run(self, start: int, until: float) -> None:
        """Sends images in turn, from number `start` on, until the time `until`."""
        number = start
        while time.monotonic() < until:
            number, begun = (number + 1) % len(self.images), time.perf_counter()
            try:
                scores = self.scores(self.images[number])
            except grpc.RpcError as error:
                self.lost.append(error.code().name)
                continue
            self.seconds.append(time.perf_counter() - begun)
            self.wrong += not np.allclose(scores, self.expected[number], atol=1e-4)


@contextlib.contextmanager
def server_of(options) -> Iterator[tuple[str, MeasuringProcess | None]]:
    """Yields the address of the server to query, and its process if it is our own."""
    if options.server:
        yield options.server, None
        return
    arguments = f"--export_dir={options.export_dir}", f"--threads={options.threads}"
    own = MeasuringProcess(
        "server", "benchmarks.serving_load", "--serve", *arguments, f"--clients={options.clients}"
    )
    try:
        yield f"localhost:{own.first['port']}", own
    finally:
        own.close()


def measure(
    server: str, own: MeasuringProcess | None, images: list[bytes], options
) -> list[Client]:
    alone = Client(server, options.model, images, [])
    expected = [alone.scores(image) for image in images]
    clients = [Client(server, options.model, images, expected) for _ in range(options.clients)]
    before = own.ask("memory")["megabytes"] if own else 0
    begun = time.monotonic()
    until = begun + options.seconds
    threads = [
        threading.Thread(target=client.run, args=(7 * number, until))
        for number, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(1)
        answered = sum(len(client.seconds) for client in clients)
        print(f"\r{time.monotonic() - begun:4.0f} s, {answered} answers", end="", file=sys.stderr)
    print(file=sys.stderr)
    taken = time.monotonic() - begun
    waits = np.sort(np.concatenate([client.seconds for client in clients])) * 1e3
    lost, wrong = [code for c in clients for code in c.lost], sum(c.wrong for c in clients)
    print(f"clients {options.clients}, answers {len(waits)}, lost {len(lost)}, wrong {wrong}")
    for code in sorted(set(lost)):
        print(f"lost: {code} {lost.count(code)} times")
    p50, p90, p99 = np.percentile(waits, [50, 90, 99])
    print(f"images/s {len(waits) / taken:.1f}")
    print(f"ms at p50 {p50:.1f}, p90 {p90:.1f}, p99 {p99:.1f}, slowest {waits[-1]:.1f}")
    if own:
        print(f"server's MB {before:.0f} before, {own.ask('memory')['megabytes']:.0f} after")
    return clients


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", help="files of images")
    parser.add_argument("--export_dir", help="a version of an export, for the server of its own")
    parser.add_argument("--server", help="host:port of a server that runs")
    parser.add_argument("--model", default="model", help="its name at that server")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--threads", type=int, default=0, help="of one operation; 0: all cores")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.export_dir, options.threads, options.clients)
        return 0
    if not options.images or bool(options.server) == bool(options.export_dir):
        parser.error("give files of images, and one of --export_dir and --server")
    images = [Path(path).read_bytes() for path in options.images]
    with server_of(options) as (server, own):
        clients = measure(server, own, images, options)
    return int(any(client.lost or client.wrong for client in clients))


if __name__ == "__main__":
    sys.exit(main())
