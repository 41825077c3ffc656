"""Mode search: its flags, what it refuses, its results; and at last the real thing, small."""

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest
from search_run import fake_command

from efficientnetv2.search import worker
from efficientnetv2.search.trial import TrialJob

ROOT = pathlib.Path(__file__).parents[2]
SPACE = {
    "name": "tiny",
    "kinds": ["fused"],
    "repeats": [1],
    "kernels": [3, 5, 7],
    "expands": [1],
    "backbones": [
        {
            "name": "one",
            "channels_in": 8,
            "head_channels": 16,
            "stages": [{"channels": 8, "stride": 2}],
        }
    ],
    "baseline": {"stage1.kernel": 3},
}
SETTINGS = (
    "train.epochs=2,train.stages=1,train.batch_size=16,train.isize=32,data.ibase=32,eval.isize=32,"
    "eval.batch_size=40,data.augname=null,data.eval_crop=whole,train.lr_warmup_epoch=0.5,"
    "train.ema_decay=0.9,data.splits.train.tfds_split=train[:160],"
    "data.splits.train.num_images=160,data.splits.minival.tfds_split=test[:80],"
    "data.splits.minival.num_images=80"
)


@pytest.fixture
def flags(tmp_path):
    """The flags of a search of the tiny space."""
    (tmp_path / "tiny.json").write_text(json.dumps(SPACE))
    return [
        "--mode=search",
        f"--search_space={tmp_path}/tiny.json",
        f"--model_dir={tmp_path}/study",
    ]


def test_what_cannot_be_searched_is_one_line(refused, flags, tmp_path, monkeypatch):
    mode, space, directory = flags
    assert refused(mode, space).startswith("--model_dir=PATH is needed with --mode=search")
    assert refused(mode, directory).startswith("--search_space=PATH is needed")
    assert refused(mode, directory, "--search_space=cifer").startswith(
        "unknown search space 'cifer'; did you mean 'cifar'?"
    )
    assert "drop it" in refused(*flags, "--model_name=efficientnetv2-s")
    assert refused(*flags, "--search_budget=soon").startswith("--search_budget must be trials or")
    error = refused(*flags, "--hparam_str=model.width_coefficient=0.5")
    assert error == "model.width_coefficient would change each network of the space; drop it"
    error = refused(*flags, "--hparam_str=data.multiclass=true")
    assert error == "a search needs one label for each image; drop data.multiclass=True"
    assert refused(*flags, "--hparam_str=train.epoch=5").startswith("unknown key 'train.epoch'")
    (tmp_path / "file").write_text("")
    where = f"--model_dir={tmp_path}/file"
    assert refused(mode, space, where).startswith(f"cannot make {where}: ")
    error = refused(*flags, "--search_storage=postgresql://me:secret@nowhere.invalid/db")
    assert error.startswith("cannot open --search_storage=postgresql://me:***@nowhere.invalid/db")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    error = refused(*flags)
    assert error == f'--mode=search needs optuna; pip install -e "{ROOT}[search]"'


def test_a_search_writes_its_results_and_writes_them_again(
    answer, refused, flags, tmp_path, monkeypatch
):
    jobs = []

    def command(job_file):
        jobs.append(TrialJob.load(job_file))
        return fake_command(job_file)

    monkeypatch.setattr(worker, "trial_command", command)
    own = ("--hparam_str=train.epochs=3", "--data_dir=my images", "--search_sampler=random")
    result, lines = answer(*flags, *own, "--search_budget=4")
    assert result["trials"]["complete"] + result["trials"]["same"] == 4
    assert result["page"] == f"{tmp_path}/study/search.html"
    assert os.path.exists(result["best"])
    overrides = {"train.epochs": 3, "data.data_dir": "my images", "eval.at_end": False}
    for job in jobs:
        assert (job.dataset_cfg, job.overrides, job.strategy) == ("shapes", overrides, "auto")
        assert (job.spec, job.model_dir) == (f"{job.model_dir}.json", job.spec[: -len(".json")])
        assert job.baseline == f"{tmp_path}/study/baseline.json"
    [command_line] = [line for line in lines if f"--model_name={result['best']} " in line]
    assert command_line.startswith("python main.py --mode=traineval --model_name=")
    assert command_line.endswith("'--data_dir=my images' --hparam_str=train.epochs=3")
    again, _ = answer(*flags, *own, "--search_budget=0")
    assert again == result
    error = refused(*flags, "--hparam_str=train.epochs=4", "--search_budget=9")
    assert error.startswith("the study was begun with train.epochs=3 (now 4)")


def test_a_search_that_is_stopped_prints_its_results_and_ends_with_status_75(
    answer, flags, monkeypatch, capsys
):
    def command(job_file):
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return fake_command(job_file, ["hold=/nowhere/there"])

    monkeypatch.setattr(worker, "trial_command", command)
    with pytest.raises(SystemExit) as ended:
        answer(*flags, "--search_budget=1")
    assert ended.value.code == 75
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["best"] is None
    assert err.splitlines()[-1] == "stopped; the same command resumes from there"


def test_a_worker_needs_no_tensorflow():
    code = (
        "import sys, efficientnetv2.cli.app, efficientnetv2.search.worker; "
        "import efficientnetv2.search.page; "
        "sys.exit(bool({'tensorflow', 'keras'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def searched(flags, *more) -> subprocess.CompletedProcess:
    command = [sys.executable, "main.py", *flags, *more]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def evaluations(run) -> list[dict]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [one for one in map(json.loads, lines) if one["kind"] == "eval"]


@pytest.mark.slow
def test_the_real_training_is_searched_to_results(flags, tmp_path):
    common = ["--dataset_cfg=shapes", f"--data_dir={tmp_path}/data", f"--hparam_str={SETTINGS}"]
    done = searched([*flags, *common], "--search_budget=2")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["trials"]["complete"] + result["trials"]["same"] == 2
    study = tmp_path / "study"
    page = json.loads((study / "search.json").read_text())
    first = page["trials"][0]
    last = evaluations(study / "trials" / "0000")[-1]
    assert (first["accuracy"], first["image_size"]) == (last["top1"], 32)
    assert first["reward"] == pytest.approx(
        first["accuracy"]
        * (first["step_seconds"] / first["baseline_step_seconds"]) ** -0.07
        * (first["parameters"] / first["baseline_parameters"]) ** -0.05
    )
    # Measuring beforehand changes nothing of a training: main.py by itself does the same.
    own = [f"--model_name={study}/trials/0000.json", f"--model_dir={tmp_path}/alone"]
    common[-1] += ",eval.at_end=false"
    done = searched(["--mode=traineval", *own, *common])
    assert "top1" not in json.loads(done.stdout.splitlines()[-1])  # No test images are looked at.
    assert evaluations(tmp_path / "alone") == evaluations(study / "trials" / "0000")


@pytest.mark.slow
def test_real_trials_that_diverge_are_recorded_and_the_search_ends_with_the_reason(flags, tmp_path):
    common = ["--dataset_cfg=shapes", f"--data_dir={tmp_path}/data"]
    wild = f"--hparam_str={SETTINGS},train.lr_base=1e30,train.lr_warmup_epoch=0"
    done = searched([*flags, *common, wild], "--search_budget=1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["trials"]["fail"] == 1
    assert "failed  diverged: the loss is " in done.stdout
