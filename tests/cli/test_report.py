"""Mode report: of runs that are finished, running or have just begun."""

import json
import os
import shutil

import pytest
from html_check import Page
from image_folder import make_images

from efficientnetv2 import save_spec
from efficientnetv2.hparams.spec import Blocks, ModelSpec
from efficientnetv2.training import run_dir

SPEC = ModelSpec("small", (Blocks("fused", 1, 3, 2, 1, 8, 8),), head_channels=16)
SETTINGS = "train.batch_size=4,train.epochs=2,train.stages=2,train.isize=32,data.ibase=16"
SETTINGS += ",eval.isize=32,eval.batch_size=4,data.augname=none,runtime.log_step_count_steps=2"
SETTINGS += ",eval.best_metric=loss,data.ram_base=0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos of three classes, an architecture, and a run on them."""
    folder = tmp_path_factory.mktemp("report")
    make_images(folder / "photos", {"ant": 12, "bee": 12, "cat": 12})
    save_spec(SPEC, str(folder / "small.json"))
    return folder


def train(folder, run_dir, *more, mode="traineval"):
    return (
        f"--mode={mode}",
        f"--model_name={folder / 'small.json'}",
        "--dataset_cfg=folder",
        f"--data_dir={folder / 'photos'}",
        f"--model_dir={run_dir}",
        f"--hparam_str={SETTINGS}",
        *more,
    )


@pytest.fixture
def run(folder, answer):
    """The directory of a finished run; a copy, to be spoilt."""
    if not (folder / "run").exists():
        answer(*train(folder, folder / "run"))
    shutil.copytree(folder / "run", folder / "copy")
    yield folder / "copy"
    shutil.rmtree(folder / "copy")


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_finished_run(run, answer, folder):
    evaluated, _ = answer("--mode=eval", f"--model_dir={run}")
    result, lines = answer("--mode=report", f"--model_dir={run}")
    assert result.pop("report") == str(run / "report" / "report.html")
    assert result == pytest.approx(evaluated)
    page = Page((run / "report" / "report.html").read_text())
    numbers = json.loads((run / "report" / "report.json").read_text())
    assert (numbers["split"], numbers["finished"], numbers["name"]) == ("eval", True, "copy")
    rows = page.table_with("class", "", "accuracy")
    right = sum(float(row[2].rstrip("%")) / 100 * int(row[3]) for row in rows)
    assert right / result["examples"] == pytest.approx(result["top1"], abs=1e-3)
    loss = [record for record in records(run) if record["kind"] == "eval"][-1]["loss"]
    assert numbers["scores"]["loss"] == pytest.approx(result["loss"])
    assert numbers["best"]["metric"] == "loss" and numbers["best"]["value"] <= loss
    for one in numbers["errors"]:  # By path, so that a wrong label can be mended.
        path = one["example"]
        assert os.path.exists(path) and os.path.basename(os.path.dirname(path)) in one["classes"]


def test_the_best_checkpoint_and_another_folder(run, answer, tmp_path):
    best = json.loads((run / "best" / "best.json").read_text())
    out = tmp_path / "deep" / "out"
    result, _ = answer(
        "--mode=report", f"--model_dir={run}", "--checkpoint=best", f"--output_dir={out}"
    )
    assert result["step"] == best["step"]
    assert result["report"] == str(out / "report.html")
    assert not (run / "report").exists()


def test_a_run_that_is_not_finished_is_shown_on_minival(run, answer):
    """As it is while it trains: its last record is of an earlier step, and half written."""
    kept = [record for record in records(run) if record["step"] <= 8]
    text = "".join(f"{json.dumps(record)}\n" for record in kept)
    (run / "metrics.jsonl").write_text(text + '{"kind": "tra')
    result, _ = answer("--mode=report", f"--model_dir={run}")
    numbers = json.loads((run / "report" / "report.json").read_text())
    assert (numbers["split"], numbers["finished"], numbers["step"]) == ("minival", False, 8)
    assert result["step"] == numbers["checkpoint_step"]


def test_a_run_without_a_checkpoint_has_curves_and_config(run, answer):
    for path in run.glob("ckpt*"):
        path.unlink() if path.is_file() else shutil.rmtree(path)
    (run / "checkpoint").unlink(missing_ok=True)
    shutil.rmtree(run / "best")
    result, lines = answer("--mode=report", f"--model_dir={run}")
    assert result == {"report": str(run / "report" / "report.html"), "step": None}
    assert lines[0] == f"no checkpoint in {run} yet: curves and settings alone"
    page = Page((run / "report" / "report.html").read_text())
    assert page.ids == ["curves", "stages", "config", "environment"]


def test_what_cannot_be_shown_is_one_line(run, refused, folder, tmp_path):
    assert refused("--mode=report") == "--model_dir=PATH is needed with --mode=report"
    line = refused("--mode=report", f"--model_dir={tmp_path}")
    assert line == f"{tmp_path} holds no run (config.yaml is missing); train first"
    flags = ("--mode=report", f"--model_dir={run}")
    line = refused(*flags, f"--data_dir={tmp_path / 'moved'}")
    assert "pass --data_dir=PATH" in line
    (tmp_path / "others").mkdir()
    make_images(tmp_path / "others", {"ant": 9, "bee": 9, "dog": 9})
    line = refused(*flags, f"--data_dir={tmp_path / 'others'}")
    assert line.startswith(f"the classes of the data are not those of {run}/labels.txt")
    shutil.rmtree(run / "best")
    line = refused(*flags, "--checkpoint=best")
    assert line.startswith(f"{run} has no best checkpoint; train with eval.best_metric")
    config, _ = run_dir.open_run(str(run))
    assert config.eval.best_metric == "loss"
