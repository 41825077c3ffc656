"""The public API, called as a user would: one run from Python and from the command line."""

import importlib
import inspect
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import published
import pytest
import tensorflow as tf
from image_folder import make_images

import efficientnetv2 as effnet

ROOT = pathlib.Path(__file__).parents[1]
SPEC = effnet.ModelSpec("small", (effnet.Blocks("fused", 1, 3, 2, 1, 8, 8),), head_channels=16)
SETTINGS = {
    "train.batch_size": 4,
    "train.epochs": 2,
    "train.stages": 2,
    "train.isize": 32,
    "data.ibase": 16,
    "eval.isize": 32,
    "eval.batch_size": 4,
    "data.ram_base": 0,
    "runtime.log_step_count_steps": 2,
}
STUB = (ROOT / "efficientnetv2" / "__init__.pyi").read_text()
HOMES = {name: home for home, name in re.findall(r"^from (\S+) import (\w+) as", STUB, re.M)}
FUNCTIONS = (  # One per mode, and what else a user calls.
    *("train", "plan", "evaluate", "predict", "export", "verify", "demo", "report", "profile"),
    *("preview", "check_data", "prepare_data", "search", "scale", "get_config", "load_run"),
    *("load_pretrained", "build_model", "build_backbone", "load_weights", "list_models"),
    "get_spec",
)
CLASSES = {"ant": 12, "bee": 12, "cat": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos of three classes, and an architecture."""
    folder = tmp_path_factory.mktemp("api")
    make_images(folder / "photos", CLASSES)
    effnet.save_spec(SPEC, str(folder / "small.json"))
    return folder


def config_of(folder, **more) -> effnet.Config:
    settings = {**SETTINGS, **more}
    photos = folder / "photos"
    return effnet.get_config(folder / "small.json", "folder", settings, data_dir=photos)


class Recorder(effnet.Callback):
    """Keeps what it is called with."""

    def __init__(self):
        self.calls = []

    def on_stage_begin(self, stage, images, labels):
        assert images.dtype == np.uint8 and images.shape[1:] == (*[stage.image_size] * 2, 3)
        self.calls.append(("stage", stage.index))

    def on_log(self, step, stage, values):
        self.calls.append(("log", step, values["loss"]))

    def on_evaluate(self, step, stage, scores, confusion):
        assert confusion.shape == (3, 3) and confusion.sum() == scores["examples"]
        self.calls.append(("evaluate", step, scores["loss"]))

    def on_train_end(self, scores):
        self.calls.append(("end", scores))


@pytest.fixture(scope="module")
def trained(folder):
    """(directory of a run that `train` made, what it returned, its callback)."""
    recorder, run_dir = Recorder(), str(folder / "run")
    return run_dir, effnet.train(config_of(folder), run_dir, callbacks=[recorder]), recorder


def weights_of(run_dir) -> dict[str, np.ndarray]:
    """All that the last checkpoint holds, by name."""
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(run_dir)))
    types = reader.get_variable_to_dtype_map()
    return {name: reader.get_tensor(name) for name, t in types.items() if t != tf.string}


def records(run_dir) -> list[dict]:
    lines = pathlib.Path(run_dir, "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in lines]


def check_same_run(one, other):
    assert records(one) == records(other)
    mine, theirs = weights_of(one), weights_of(other)
    assert mine.keys() == theirs.keys() and len(mine) > 20
    for name, array in mine.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    for name in ("config.yaml", "labels.txt", "architecture.json"):
        assert pathlib.Path(one, name).read_bytes() == pathlib.Path(other, name).read_bytes()


def test_a_run_from_python_and_from_the_command_line_are_the_same_bit_for_bit(
    folder, trained, answer, tmp_path
):
    run_dir, result, _ = trained
    from_flags, lines = answer(
        "--mode=traineval",
        f"--model_name={folder / 'small.json'}",
        "--dataset_cfg=folder",
        f"--data_dir={folder / 'photos'}",
        f"--model_dir={tmp_path / 'run'}",
        "--hparam_str=" + ",".join(f"{key}={value}" for key, value in SETTINGS.items()),
    )
    assert from_flags == result
    assert len(lines) > 5
    check_same_run(run_dir, tmp_path / "run")


def test_callbacks_are_called_in_order(trained):
    run_dir, result, recorder = trained
    kinds = [call[0] for call in recorder.calls]
    assert kinds[0] == "stage" and kinds[-1] == "end" and kinds.count("stage") == 2
    assert recorder.calls[-1] == ("end", result)
    logged = [("log", r["step"], r["loss"]) for r in records(run_dir) if r["kind"] == "train"]
    assert [call for call in recorder.calls if call[0] == "log"] == logged
    evals = [("evaluate", r["step"], r["loss"]) for r in records(run_dir) if r["kind"] == "eval"]
    assert [call for call in recorder.calls if call[0] == "evaluate"] == evals and evals
    assert isinstance(recorder.model, effnet.build_model(SPEC).__class__)


def test_a_stopped_run_resumes_by_the_same_call_with_the_same_bits(folder, trained, tmp_path):
    class StopAtFirstLog(effnet.Callback):
        def on_log(self, step, stage, values):
            os.kill(os.getpid(), signal.SIGTERM)

    config, run_dir = config_of(folder), str(tmp_path / "run")
    with pytest.raises(effnet.TrainingStopped) as stopped:
        effnet.train(config, run_dir, callbacks=[StopAtFirstLog()])
    assert 0 < stopped.value.step < trained[1]["step"]
    assert effnet.train(config, run_dir) == trained[1]
    check_same_run(run_dir, trained[0])


def test_a_trained_network_is_evaluated_queried_exported_and_verified(folder, trained, tmp_path):
    run_dir, result, _ = trained
    scores = effnet.evaluate(run_dir)
    assert scores == pytest.approx(result)
    best = effnet.load_run(run_dir, overrides="eval.batch_size=2")
    assert best.class_names == tuple(CLASSES) and best.config.eval.batch_size == 2
    assert effnet.evaluate(best, split="minival")["examples"] == scores["examples"]

    cats = str(folder / "photos" / "cat")
    rows = list(effnet.predict(pathlib.Path(run_dir), pathlib.Path(cats)))
    assert [os.path.basename(row["image"]) for row in rows] == sorted(os.listdir(cats))
    assert all(abs(sum(one["score"] for one in row["top"]) - 1) < 1e-5 for row in rows)
    assert {one["label"] for one in rows[0]["top"]} == set(CLASSES)

    path = effnet.export(best, tmp_path / "serving")
    assert path == str(tmp_path / "serving" / "1")
    card = json.loads(pathlib.Path(path, "model_card.json").read_text())
    assert card["metrics"]["step"] == result["step"]
    served = list(effnet.predict(path, [rows[0]["image"]]))
    top, expected = served[0]["top"], rows[0]["top"]
    assert [one["label"] for one in top] == [one["label"] for one in expected]
    assert [o["score"] for o in top] == pytest.approx([o["score"] for o in expected], abs=1e-5)
    verified = effnet.verify(tmp_path / "serving", run_dir)
    assert verified["verified"] == path
    assert verified["checks"]["parity"].startswith(f"the same weights as {run_dir}, largest")

    page = effnet.report(run_dir, tmp_path / "report")
    assert page["report"] == str(tmp_path / "report" / "report.html")
    assert page["top1"] == pytest.approx(scores["top1"])


def test_weights_of_a_run_or_a_file_start_another_run_and_build_models(folder, trained, tmp_path):
    run_dir = trained[0]
    config = config_of(folder, **{"train.epochs": 1, "train.stages": 1, "train.min_steps": 0})
    plain = effnet.train(config, str(tmp_path / "plain"), evaluate=False)
    tuned = effnet.train(config, str(tmp_path / "tuned"), weights=run_dir, evaluate=False)
    assert plain["step"] == tuned["step"] and plain["loss"] != tuned["loss"]
    saved = effnet.load_config(str(tmp_path / "tuned" / "config.yaml"))
    assert saved.train.ft_init_ckpt == run_dir
    assert saved.train.lr_base != config.train.lr_base  # The defaults of fine-tuning.

    model = effnet.build_model(folder / "small.json", num_classes=3)
    report = effnet.load_weights(model, pathlib.Path(run_dir))
    assert report.used_ema and not report.missing
    pixels = np.full([1, 32, 32, 3], 100, np.float32)
    np.testing.assert_array_equal(
        model(pixels, training=False), effnet.load_run(run_dir).model(pixels, training=False)
    )
    backbone = effnet.build_backbone(SPEC, levels=(2,))
    assert backbone(pixels)["reduction_2"].shape == (1, 8, 8, 8)


def test_weights_of_a_file_are_evaluated_and_queried_with_the_settings_that_they_imply(
    folder, tmp_path
):
    path = published.save_official(published.official_arrays(SPEC, 3), tmp_path / "model")
    (tmp_path / "labels.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    trained = effnet.load_pretrained(config_of(folder), path, labels=tmp_path / "labels.txt")
    assert (trained.config.data.num_classes, trained.class_names) == (3, tuple(CLASSES))
    assert trained.loaded.format == "official, by name" and trained.model_dir is None
    assert effnet.evaluate(trained)["step"] is None
    [row] = effnet.predict(trained, next((folder / "photos" / "bee").iterdir()))
    assert {one["label"] for one in row["top"]} == set(CLASSES)
    with pytest.raises(effnet.UserError, match="a report needs a run"):
        effnet.report(trained)
    (tmp_path / "labels.txt").write_text("ant\nbee\n")
    with pytest.raises(effnet.UserError, match="names 2 classes, the weights have 3"):
        effnet.load_pretrained(config_of(folder), path, labels=tmp_path / "labels.txt")


def test_the_demo_page_is_served_while_its_block_runs(trained):
    """In a process of its own: gradio leaves sockets and event loops open."""
    program = f"""
import sys, urllib.error, urllib.request
sys.path.insert(0, {str(ROOT)!r})
import efficientnetv2 as effnet
with effnet.demo({trained[0]!r}) as (url, page):
    print(urllib.request.urlopen(url, timeout=60).status)
    try:
        with effnet.demo({trained[0]!r}, port=int(url.rstrip("/").rpartition(":")[2])):
            pass
    except effnet.UserError as error:
        print(str(error).endswith("is taken; give another one"))
try:
    urllib.request.urlopen(url, timeout=60)
except urllib.error.URLError:
    print("closed")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == ["200", "True", "closed"], done.stderr


def test_what_is_known_without_training():
    assert "efficientnetv2-s" in effnet.list_models()
    assert effnet.get_spec("efficientnetv2-s").name == "efficientnetv2-s"
    config = effnet.get_config("efficientnetv2-s", "imagenettfds")
    with pytest.raises(effnet.UserError):
        effnet.plan(config)  # The data is not there.
    profile = effnet.profile(SPEC, 32)
    assert profile.params == sum(np.prod(w.shape) for w in effnet.build_model(SPEC).weights)
    with pytest.raises(effnet.UserError, match="image_size is needed"):
        effnet.profile(SPEC)


def test_a_run_is_planned_and_its_data_checked_drawn_and_prepared(folder, tmp_path):
    config = config_of(folder)
    stages = effnet.plan(config)
    assert [stage.image_size for stage in stages] == [16, 32]
    assert effnet.stage_table(stages).count("\n") == 2
    check = effnet.check_data(config, output_dir=tmp_path)
    assert check.errors == 0 and sum(check.examples.values()) == sum(CLASSES.values())
    assert json.loads((tmp_path / "check_data.json").read_text())["errors"] == 0
    prepared = effnet.prepare_data(config, tmp_path / "records")
    assert prepared.manifest.splits["train"].num_examples == check.examples["train"]
    records_config = effnet.get_config(None, "tfrecord", data_dir=str(tmp_path / "records"))
    assert effnet.plan(effnet.with_overrides(records_config, "train.batch_size=4"))


def test_sheets_are_drawn(folder, tmp_path, monkeypatch):
    from efficientnetv2.datasets.tools import preview

    monkeypatch.setattr(preview, "LAYERS", {"RandomHue": {}})  # Others take long to trace.
    result = effnet.preview(config_of(folder), str(tmp_path))
    assert result["stages"] == 2 and all(os.path.exists(path) for path in result["files"])


def test_bad_input_is_a_value_error_of_one_line(folder, trained, tmp_path):
    config, run_dir = config_of(folder), trained[0]
    calls = {
        "unknown model 'efficientnetv2-z'; did": lambda: effnet.get_config("efficientnetv2-z"),
        "holds no run": lambda: effnet.evaluate(str(tmp_path)),
        "checkpoint must be last or best": lambda: effnet.load_run(run_dir, checkpoint="first"),
        "has no best checkpoint": lambda: effnet.load_run(run_dir, checkpoint="best"),
        "no image at 'nowhere.jpg'": lambda: effnet.predict(run_dir, ["nowhere.jpg"]),
        "unknown --export_format='tflight'": lambda: effnet.export(
            run_dir, str(tmp_path), formats=("tflight",)
        ),
        "no SavedModel": lambda: effnet.verify(str(tmp_path)),
        "unknown strategy 'two'": lambda: effnet.train(config, str(tmp_path), strategy="two"),
        "model_dir must be the path": lambda: effnet.train(config, None),
        "run must be the path": lambda: effnet.evaluate(None),
        "images must be the path": lambda: effnet.predict(run_dir, [3]),
        "export_dir must be the path": lambda: effnet.export(run_dir, ""),
        "data_dir must be the path": lambda: effnet.get_config(data_dir=3),
        "holds a run with train.epochs=2 (now 3)": lambda: effnet.train(
            config_of(folder, **{"train.epochs": 3}), run_dir
        ),
        "are no file, nor published": lambda: effnet.build_model(SPEC, weights="imagenot"),
        "must be 1 pixel or more": lambda: effnet.prepare_data(config, "out", short_side=0),
        "has no classifier": lambda: effnet.build_backbone(SPEC, num_classes=3),
    }
    for text, call in calls.items():
        with pytest.raises(ValueError) as caught:
            call()
        assert type(caught.value) is effnet.UserError, text
        assert text in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_is_printed_unless_asked_for(folder, tmp_path):
    """In a process of its own, whose stderr is a pipe from the start, as of a user's program."""
    program = f"""
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.path.insert(0, {str(ROOT)!r})
import efficientnetv2 as effnet
from efficientnetv2.common.tf_import import import_tensorflow
import_tensorflow()  # TensorFlow's own notes.
settings = {SETTINGS!r}
config = effnet.get_config({str(folder / "small.json")!r}, "folder", settings,
                           data_dir={str(folder / "photos")!r})
effnet.train(config, "run")
effnet.evaluate("run")
list(effnet.predict("run", {str(folder / "photos" / "ant")!r}))
effnet.export("run", "serving")
effnet.verify("serving", "run")
effnet.report("run")
effnet.check_data(config)
effnet.prepare_data(config, "records")
sys.argv = None  # Never read.
effnet.evaluate("run")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_public_name_is_documented_and_known_to_type_checkers():
    assert sorted(HOMES) == sorted(effnet.__all__)
    for name, home in HOMES.items():
        thing, defined = getattr(effnet, name), getattr(importlib.import_module(home), name)
        assert inspect.getdoc(defined), name
        if thing is not defined:  # A package that can be called.
            assert name in ("export", "report", "search")
            assert inspect.signature(thing) == inspect.signature(defined)
            assert f"{home}.{name}" in thing.__doc__


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_docstring_says_what_comes_out_what_fails_and_shows_it(name):
    text = inspect.getdoc(getattr(importlib.import_module(HOMES[name]), name))
    assert "Example" in text
    assert "Raises" in text or name == "list_models"
