"""Mode verify: from the command line, with and without the run; what export writes for it."""

import json
import pathlib
import shlex
import shutil

import pytest
import tensorflow as tf
from image_folder import make_images

from efficientnetv2 import save_spec
from efficientnetv2.hparams.spec import Blocks, ModelSpec

SPEC = ModelSpec("small", (Blocks("fused", 1, 3, 2, 1, 8, 8),), head_channels=16)
SETTINGS = "train.batch_size=4,train.epochs=2,train.stages=1,train.isize=32,data.ibase=32"
SETTINGS += ",eval.isize=32,eval.batch_size=4,data.augname=none,eval.best_metric=loss"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on photos of three classes, made by the first test that needs it."""
    folder = tmp_path_factory.mktemp("verify")
    make_images(folder / "photos", {"ant": 12, "bee": 12, "cat": 12})
    save_spec(SPEC, str(folder / "small.json"))
    return folder


@pytest.fixture
def run(folder, answer):
    if not (folder / "run").exists():
        answer(
            "--mode=traineval",
            f"--model_name={folder / 'small.json'}",
            "--dataset_cfg=folder",
            f"--data_dir={folder / 'photos'}",
            f"--model_dir={folder / 'run'}",
            f"--hparam_str={SETTINGS}",
        )
    return folder / "run"


@pytest.fixture
def exported(folder, run, answer):
    """The folder of versions; the export is version 3."""
    if not (folder / "serving").exists():
        flags = (f"--export_dir={folder / 'serving'}", "--export_version=3")
        result, _ = answer("--mode=export", f"--model_dir={run}", *flags)
        assert result["export"] == str(folder / "serving" / "3")
    return folder / "serving"


def card_of(path):
    return json.loads((pathlib.Path(path) / "model_card.json").read_text())


def rows(lines):
    """{check: result} of the table."""
    start = next(i for i, line in enumerate(lines) if line.split() == ["check", "result"])
    end = next(i for i, line in enumerate(lines) if line.startswith("query TensorFlow Serving"))
    return {line[:26].rstrip(): line[26:] for line in lines[start + 1 : end]}


def evaluations(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == "eval"]


def test_it_needs_the_export_alone(exported, run, answer):
    hidden = run.with_name("hidden")
    run.rename(hidden)
    try:
        result, lines = answer("--mode=verify", f"--export_dir={exported}")
        alone, _ = answer("--mode=verify", f"--export_dir={exported / '3'}")
    finally:
        hidden.rename(run)
    assert result["verified"] == alone["verified"] == str(exported / "3")
    table = rows(lines)
    assert list(table) == [
        "files",
        "signatures",
        "warm-up",
        "scores",
        "serving_default, batch 1",
        "serving_default, batch 8",
        "predict_images, batch 1",
        "predict_images, batch 8",
    ]
    assert {name: table[name] for name in list(table)[:4]}.items() <= result["checks"].items()
    assert list(result["latency"]) == list(table)[4:]


def test_the_command_that_it_prints_asks_a_server_about_an_image(exported, answer, tmp_path):
    serve = tf.saved_model.load(str(exported / "3")).signatures["serving_default"]
    _, lines = answer("--mode=verify", f"--export_dir={exported}")
    folder = tmp_path / "requests"
    _, more = answer("--mode=verify", f"--export_dir={exported}", f"--output_dir={folder}")
    for printed in (lines[-2], more[-2]):
        program, option, body, url = shlex.split(printed)
        assert (program, option) == ("curl", "-d")
        assert url == "http://localhost:8501/v1/models/serving/versions/3:predict"
        if body.startswith("@"):
            assert body == f"@{folder / 'request.json'}"
            body = pathlib.Path(body[1:]).read_text()
        [instance] = json.loads(body)["instances"]
        image = tf.io.decode_base64(instance["b64"].replace("+", "-").replace("/", "_"))
        assert serve(image_bytes=image[tf.newaxis])["scores"].shape == (1, 3)
    assert "@" not in lines[-2]
    assert len(lines[-2]) < 1000


def test_with_a_run_or_weights_it_compares_with_them(exported, run, answer, refused):
    _, lines = answer("--mode=verify", f"--export_dir={exported}", f"--model_dir={run}")
    assert rows(lines)["parity"].startswith(f"the same weights as {run}, largest difference ")
    line = refused(
        "--mode=verify",
        f"--export_dir={exported}",
        f"--model_dir={run}",
        "--hparam_str=data.eval_crop=whole",
    )
    assert line.startswith(f"{exported / '3'}: parity: with {run}: ")
    assert "differs from the model by" in line


def test_a_spoilt_export_is_one_line_that_names_the_check(exported, refused, tmp_path):
    copy = tmp_path / "1"
    shutil.copytree(exported / "3", copy)
    (copy / "assets" / "labels.txt").write_text("ant\nbee\ndog\n")
    line = refused("--mode=verify", f"--export_dir={tmp_path}")
    assert line == f"{copy}: files: assets/labels.txt has changed"
    shutil.rmtree(copy)
    line = refused("--mode=verify", f"--export_dir={tmp_path}")
    assert line == f"no SavedModel in {tmp_path}; export first with --mode=export"
    assert refused("--mode=verify") == "--export_dir=PATH is needed with --mode=verify"


def test_the_card_has_the_last_evaluation_or_the_best(exported, run, answer, tmp_path):
    records = evaluations(run)
    assert len(records) == 2
    assert card_of(exported / "3")["metrics"] == {
        key: value for key, value in records[-1].items() if key not in ("kind", "stage")
    }
    flags = ("--mode=export", f"--model_dir={run}", f"--export_dir={tmp_path}")
    result, _ = answer(*flags, "--checkpoint=best")
    best = min(records, key=lambda record: record["loss"])
    metrics = card_of(result["export"])["metrics"]
    assert (metrics["step"], metrics["loss"]) == (best["step"], best["loss"])
    result, _ = answer(*flags, "--hparam_str=data.eval_crop=whole")
    assert card_of(result["export"])["metrics"] is None  # They were measured with another crop.


def test_a_version_that_exists_is_refused(exported, run, refused):
    before = card_of(exported / "3")
    flags = ("--mode=export", f"--model_dir={run}", f"--export_dir={exported}")
    line = refused(*flags, "--export_version=3")
    assert line.startswith(f"{exported / '3'} exists, and a version is never written over; ")
    assert card_of(exported / "3") == before
    line = refused(*flags, "--export_version=0")
    assert line.startswith("flag --export_version=0: ")
