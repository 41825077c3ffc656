"""deploy/: the files of a server that does not run here, by TensorFlow Serving's own messages."""

import concurrent.futures
import json
import pathlib
import re
import subprocess
import sys

import grpc
import pytest
import serving_protocol
import tensorflow as tf
import yaml
from google.protobuf import text_format
from serving_configs import message_class
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2

from efficientnetv2.export.saved_model import WARMUP_BATCHES

DEPLOY = pathlib.Path(__file__).parents[2] / "deploy"


def parsed(name, message):
    return text_format.Parse((DEPLOY / name).read_text(), message)


@pytest.fixture(scope="module")
def models():
    return parsed("models.config", model_server_config_pb2.ModelServerConfig())


@pytest.fixture(scope="module")
def service():
    return yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())["services"]["serving"]


@pytest.fixture(scope="module")
def readme():
    return (DEPLOY / "README.md").read_text()


def mounts(service) -> dict[str, str]:
    """{path in the container: path here}"""
    pattern = r"(?:\$\{\w+:-)?([^:}]+)\}?:([^:]+):ro"
    return {m[2]: m[1] for m in (re.fullmatch(pattern, v) for v in service["volumes"])}


def test_labels_are_of_versions_that_are_loaded(models):
    [model] = models.model_config_list.config
    assert model.model_platform == "tensorflow"
    assert dict(model.version_labels) == {"stable": 1, "canary": 2}
    assert set(model.version_labels.values()) <= set(model.model_version_policy.specific.versions)


def test_batches_are_those_that_are_warmed_up():
    batching = parsed("batching.config", message_class("BatchingParameters")())
    assert tuple(batching.allowed_batch_sizes) == WARMUP_BATCHES
    assert batching.allowed_batch_sizes[-1] == batching.max_batch_size.value
    assert batching.num_batch_threads.value >= 1
    assert 0 < batching.batch_timeout_micros.value < 100_000


def test_monitoring_is_on_where_the_readme_says(readme):
    monitoring = parsed("monitoring.config", message_class("MonitoringConfig")())
    assert monitoring.prometheus_config.enable
    assert f"localhost:8501{monitoring.prometheus_config.path}`" in readme


def test_the_composition_mounts_what_the_server_reads(service, models):
    flags = dict(flag.removeprefix("--").split("=") for flag in service["command"])
    here = mounts(service)
    assert len(here) == len(service["volumes"])
    for flag in ("model_config_file", "batching_parameters_file", "monitoring_config_file"):
        folder, _, name = flags[flag].rpartition("/")
        assert (DEPLOY / here[folder] / name).is_file()
    [model] = models.model_config_list.config
    assert model.base_path in here
    assert pathlib.Path(here[model.base_path]).name == model.name
    assert flags["enable_batching"] == "true"
    # Labels of versions that are not there yet are refused otherwise.
    assert flags["allow_version_labels_for_unavailable_models"] == "true"
    assert service["image"].startswith("tensorflow/serving:")
    assert service["ports"] == ["8500:8500", "8501:8501"]


def test_the_readme_asks_for_this_model_and_says_that_it_is_not_executed(readme, models):
    [model] = models.model_config_list.config
    urls = re.findall(r"http://localhost:8501/v1/models/(\w+)(\S*)", readme)
    assert {name for name, _ in urls} == {model.name}
    assert {rest for _, rest in urls} == {"", "/metadata", ":predict", "/labels/stable:predict"}
    assert "**Not executed in CI**" in readme
    assert all(f"`{path.name}`" in readme for path in DEPLOY.glob("*.config"))


@pytest.fixture(scope="module")
def server(exported):
    """The address of a gRPC server of the protocol adapter: no TensorFlow Serving."""
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    servicer = serving_protocol.Servicer(tf.saved_model.load(exported))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def client(server, *arguments):
    command = [sys.executable, str(DEPLOY / "client.py"), *arguments, f"--server={server}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_client_asks_by_grpc(server, exported, images, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    paths = []
    for name in ("wide.jpg", "alpha.png"):
        (tmp_path / name).write_bytes(images[name])
        paths.append(str(tmp_path / name))
    result = client(server, *paths, "--label=stable")
    assert result.returncode == 0, result.stderr
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["image"] for answer in answers] == paths
    serve = tf.saved_model.load(exported).signatures["serving_default"]
    for answer, name in zip(answers, ("wide.jpg", "alpha.png"), strict=True):
        expected = serve(image_bytes=tf.constant([images[name]]))
        labels = [label.decode() for label in expected["labels"][0].numpy()]
        assert list(answer["top"]) == labels
        best = expected["scores"].numpy()[0, expected["classes"].numpy()[0]]
        assert list(answer["top"].values()) == pytest.approx(best.tolist(), abs=1e-6)
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    result = client(server, paths[0], str(tmp_path / "bad.jpg"))
    assert (result.returncode, result.stdout) == (2, "")
    assert "error: INVALID_ARGUMENT: " in result.stderr
    assert "image_1" in result.stderr
