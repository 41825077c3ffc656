"""A real server: NVIDIA's Triton answers with an export, by deploy/triton_server.py."""

import json
import os
import signal
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import tensorflow as tf
from notebook_runs import ROOT

SERVER = ROOT / "deploy" / "triton_server.py"


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("localhost", 0))
        return opened.getsockname()[1]


@pytest.fixture(scope="module")
def address(exported, tmp_path_factory):
    """The server's address; it is started for the tests of this module."""
    log = tmp_path_factory.mktemp("triton") / "log.txt"
    ports = f"--http_port={free_port()}", f"--grpc_port={free_port()}"
    command = [os.environ["TRITON_PYTHON"], str(SERVER), exported, *ports]
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    until = time.monotonic() + 120
    while not (lines := [line for line in log.read_text().split("\n") if line[:5] == "http:"]):
        assert server.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
        time.sleep(0.5)
    yield lines[0]
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 0


def ask(address: str, images: list[bytes]) -> dict[str, np.ndarray]:
    """Asks by KServe's protocol: JSON, and behind it each image after its length."""
    data = b"".join(struct.pack("<I", len(image)) + image for image in images)
    given = {"name": "image_bytes", "shape": [len(images), 1], "datatype": "BYTES"}
    given["parameters"] = {"binary_data_size": len(data)}
    head = json.dumps({"inputs": [given]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    request = urllib.request.Request(f"{address}/infer", head + data, headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        outputs = json.load(response)["outputs"]
    return {one["name"]: np.reshape(one["data"], one["shape"]) for one in outputs}


@pytest.fixture(scope="module")
def expected(exported, pngs):
    own = tf.saved_model.load(exported).signatures["serving_default"]
    return {name: value.numpy() for name, value in own(image_bytes=tf.constant(pngs)).items()}


def test_it_answers_as_the_saved_model(address, pngs, expected):
    answer = ask(address, pngs)
    assert set(answer) == {"scores", "classes", "labels"}
    np.testing.assert_allclose(answer["scores"], expected["scores"], atol=1e-5)
    np.testing.assert_array_equal(answer["classes"], expected["classes"])
    assert answer["labels"][0, 0].encode() == expected["labels"][0, 0]


def test_a_broken_image_is_named_and_the_server_lives_on(address, pngs, expected):
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(address, [pngs[0], pngs[1][:20], pngs[2]])
    assert "image_1" in refused.value.read().decode()
    np.testing.assert_allclose(ask(address, pngs[:1])["scores"], expected["scores"][:1], atol=1e-5)


def test_pixels_have_a_model_of_their_own(address):
    with urllib.request.urlopen(f"{address}_predict_images", timeout=60) as response:
        (given,) = json.load(response)["inputs"]
    assert (given["name"], given["datatype"]) == ("images", "UINT8")
    assert given["shape"] == [-1, 32, 32, 3]
