"""The command line, each time as a process of its own: what a user can get wrong, and the plan."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def main(tmp_path, monkeypatch):
    """Runs main.py in an empty directory; `tensorflow=False` ends it if it imports TensorFlow."""
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "tensorflow.py").write_text("raise SystemExit('TensorFlow was imported')\n")
    work = tmp_path / "work"
    work.mkdir()

    def run(*flags, tensorflow=False):
        if not tensorflow:
            monkeypatch.setenv("PYTHONPATH", str(trap))
        command = [sys.executable, "-W", "error", str(ROOT / "main.py"), *flags]
        if tensorflow:  # Libraries warn when imported.
            command[1:3] = []
        return subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=120)

    return run


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--mode=trian"], "unknown mode 'trian'; did you mean 'train'?"),
        (
            ["--mode="],
            "unknown mode ''; valid: train, traineval, eval, infer, export, verify, prof",
        ),
        (
            ["--model_name=efficientnetv2-z", "--model_dir=run"],
            "unknown model 'efficientnetv2-z'; did you mean 'efficientnetv2-s'?",
        ),
        (
            ["--dataset_cfg=imagent", "--model_dir=run"],
            "unknown data set 'imagent'; did you mean 'imagenet'?",
        ),
        (
            ["--hparam_str=train.epoch=3", "--dry_run"],
            "unknown key 'train.epoch'; did you mean 'train.epochs'?",
        ),
        (
            ["--hparam_str=train.epochs=few", "--dry_run"],
            "train.epochs must be of type int, got 'few'",
        ),
        (
            ["--hparam_str=train.epochs=0", "--dry_run"],
            "train.epochs must be at least 1, got 0",
        ),
        (["--modle_dir=run"], "Unknown command line flag 'modle_dir'. Did you mean: model_dir ?"),
        (["--model_dir"], "Missing value for flag --model_dir"),
        (["--dry_run=perhaps"], "flag --dry_run=perhaps: "),
        (["train"], "unexpected argument 'train'; flags start with --"),
        (["--dataset_cfg=folder", "--dry_run"], "data.data_dir is needed for a folder of images"),
        ([], "--model_dir=PATH is needed with --mode=traineval"),
        (["--mode=eval"], "--model_dir=PATH is needed with --mode=eval"),
        (["--mode=profile"], "--model_name is needed with --mode=profile: a model, or all"),
        (
            ["--mode=infer", "--weights=a.h5", "--image_path=a"],
            "--model_name is needed with --weigh",
        ),
        (["--weights=a.h5"], "--weights is for eval, infer and export; drop it to train"),
        (["--mode=infer", "--labels=a", "--image_path=a"], "--labels names the classes of --weigh"),
        (
            ["--mode=eval", "--weights=a.h5", "--model_dir=run"],
            "--model_dir and --weights both name weights; drop one",
        ),
        (["--mode=export"], "--export_dir=PATH is needed with --mode=export"),
        (["--mode=verify"], "--export_dir=PATH is needed with --mode=verify"),
        (["--export_version=0"], "flag --export_version=0: "),
        (["--mode=infer"], "--image_path is needed: images or folders, separated by commas"),
        (
            ["--hparam_str=train.batch_size=999999", "--dry_run"],
            "2 steps are too few for train.stages=4",
        ),
    ],
)
def test_a_users_error_is_one_line_and_status_2(main, flags, message):
    result = main(*flags)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.endswith("\n")
    assert result.stderr.count("\n") == 1


def test_help_lists_the_flags_without_tensorflow(main):
    result = main("--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("python main.py --mode=MODE")
    assert "--mode: One of train, traineval, eval, infer, export, verify" in result.stdout
    assert "--search_storage" in result.stdout and "Architecture: a name" in result.stdout


def test_dry_run_of_imagenet_prints_the_papers_stages_without_tensorflow(main):
    result = main("--dataset_cfg=imagenet", "--model_name=efficientnetv2-s", "--dry_run")
    assert (result.returncode, result.stderr) == (0, "")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["stage", "epochs", "steps", "size", "batch", "magnitude", "mixup", "dropout"],
        ["1", "87.5", "26834", "128", "4096", "5.00", "0.000", "0.100"],
        ["2", "87.5", "26834", "185", "4096", "8.33", "0.000", "0.167"],
        ["3", "87.5", "26834", "242", "4096", "11.67", "0.000", "0.233"],
        ["4", "87.5", "26834", "300", "4096", "15.00", "0.000", "0.300"],
    ]


def test_the_default_is_shapes_and_settings_come_from_items_and_files(main, tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("train: {epochs: 4, stages: 2, batch_size: 100}\ndata: {ibase: 64}\n")
    result = main(f"--hparam_str={path},train.isize=96", "--dry_run")
    assert (result.returncode, result.stderr) == (0, "")
    rows = [line.split()[:5] for line in result.stdout.splitlines()]
    assert rows[1:] == [["1", "2.0", "120", "64", "100"], ["2", "2.0", "120", "96", "100"]]


def test_dry_run_of_a_folder_counts_its_images(main, tmp_path):
    png = tf.io.encode_png(np.zeros([2, 2, 3], np.uint8)).numpy()
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(5):
            (tmp_path / "photos" / name / f"{index}.png").write_bytes(png)
    result = main(
        "--dataset_cfg=folder",
        f"--data_dir={tmp_path / 'photos'}",
        "--hparam_str=train.batch_size=2,train.epochs=3,train.stages=2",
        "--dry_run",
        tensorflow=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    rows = [line.split()[:5] for line in result.stdout.splitlines()]
    # Of 5 images per class 1 is held out: 8 images, 12 steps of 2.
    assert rows[1:] == [["1", "1.5", "6", "128", "2"], ["2", "1.5", "6", "192", "2"]]
    assert list((tmp_path / "work").iterdir()) == []
