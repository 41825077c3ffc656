"""notebooks/serve.ipynb: all of it in a kernel, as Colab runs it."""

import json
import re

import pytest
from notebook_runs import execute, printed, shows_picture

FORMATS = ("tflite", "tflite_int8", "onnx", "openvino")
SHORT = "train.epochs=1,train.stages=1,eval.every_epochs=1,train.batch_size=200"


@pytest.mark.slow
def test_from_training_to_answers_of_every_format(tmp_path, monkeypatch):
    work = tmp_path / "work"
    settings = {"FORMATS": ",".join(FORMATS), "MORE_SETTINGS": SHORT, "WORK": str(work)}
    cells = execute("serve", settings, tmp_path, monkeypatch)

    signatures = printed(cells["signatures"])
    for name in ("serving_default", "predict_images", "predict_images_float", "predict_features"):
        assert f"{name}(" in signatures
    assert "image_bytes: string" in signatures and "scores: float32" in signatures
    assert "saved_model.pb" in printed(cells["files"]) and "model.onnx" in printed(cells["files"])
    assert "preprocessing: " in printed(cells["card"])
    answers = re.findall(r"^(0\.\d+|1\.0+)  class", printed(cells["query-bytes"]), re.MULTILINE)
    assert len(answers) == 12 and len(set(answers)) > 1
    assert float(printed(cells["query-array"]).split()[-1]) < 0.05  # Half a level of each pixel.
    assert printed(cells["broken"]) == "InvalidArgumentError True\n"

    rows = re.findall(
        r"^(\w+) .* same class +(\d+)%  largest difference (\S+)$",
        printed(cells["compare"]),
        re.MULTILINE,
    )
    assert [row[0] for row in rows] == ["saved_model", *FORMATS]
    exact = [row for row in rows if row[0] != "tflite_int8"]
    assert all(row[1] == "100" and float(row[2]) < 1e-4 for row in exact)
    assert shows_picture(cells["compare"])
    body = json.loads((work / "request.json").read_text())
    assert list(body["instances"][0]) == ["b64"]
