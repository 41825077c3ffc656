"""Mode prepare: the result line, what is refused, and ten thousand files with a kill between."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import tensorflow as tf
from image_folder import jpeg, make_images
from prepared import contents, names

from efficientnetv2.datasets.sources.manifest import read_manifest

MAIN = pathlib.Path(__file__).parents[2] / "main.py"


@pytest.fixture
def flags(tmp_path):
    make_images(tmp_path / "photos", {"ant": 6, "bee": 5})
    folders = f"--data_dir={tmp_path}/photos", f"--output_dir={tmp_path}/out"
    return "--mode=prepare", "--dataset_cfg=folder", *folders


def test_the_result_and_its_table(answer, flags, tmp_path):
    (tmp_path / "photos" / "ant" / "bad.jpg").touch()
    skip = "--hparam_str=data.on_error=skip,data.max_bad_share=0.5"
    result, lines = answer(*flags, "--short_side=10", skip)
    seconds = result.pop("seconds")
    assert 0 < seconds < 60
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out").glob("*.tfrecord")}
    splits = result.pop("splits")
    assert result == {"prepared": f"{tmp_path}/out", "shards_written": 2, "shards_kept": 0}
    assert list(splits) == ["train", "minival", "eval"]
    for split, file in {"train": "train", "minival": "eval", "eval": "eval"}.items():
        assert splits[split]["bytes"] == sizes[f"{file}-00000-of-00001.tfrecord"]
        assert splits[split]["shards"] == 1
    assert splits["train"]["examples"] + splits["eval"]["examples"] == 11
    assert splits["train"]["skipped"] + splits["eval"]["skipped"] == 1
    assert lines[0].split()[:2] == ["train", str(splits["train"]["examples"])]
    settings = read_manifest(f"{tmp_path}/out").settings
    assert (settings["short_side"], settings["train"]) == (10, {"seed": 0})

    again, _ = answer(*flags, "--short_side=10", skip)
    assert again["splits"] == splits
    assert (again["shards_written"], again["shards_kept"]) == (0, 2)


def test_what_is_refused(refused, flags):
    assert refused(*flags[:3]) == "--output_dir=PATH is needed with --mode=prepare"
    assert "--short_side must be 1 pixel or more, got 0" in refused(*flags, "--short_side=0")
    assert "is not a folder" in refused(*flags, "--data_dir=nowhere")
    assert "unknown" in refused(*flags, "--hparam_str=data.on_errors=skip")


@pytest.mark.slow
def test_ten_thousand_files_killed_in_the_middle_end_with_the_same_bytes(answer, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "killed"
    images = [jpeg(number, 32, 32 + number % 8) for number in range(300)]
    for number in range(10_000):
        folder = photos / f"class{number % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05d}.jpg").write_bytes(images[number % 300])
    flags = "--mode=prepare", "--dataset_cfg=folder", f"--data_dir={photos}", "--short_side=24"

    command = [sys.executable, str(MAIN), *flags, f"--output_dir={out}"]
    kept = []
    for least in (1, 4):  # Killed twice, with more and more shards finished.
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=tmp_path)
        deadline = time.monotonic() + 120
        while len(list(out.glob("progress/*.tfrecord.json"))) < least:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        kept.append(len(list(out.glob("progress/*.tfrecord.json"))))
        assert not (out / "manifest.json").exists()
    assert 1 <= kept[0] < kept[1] < 10

    resumed, _ = answer(*flags, f"--output_dir={out}")
    whole, _ = answer(*flags, f"--output_dir={tmp_path}/whole")
    assert (resumed["shards_kept"], resumed["shards_written"]) == (kept[1], 10 - kept[1])
    assert resumed["splits"] == whole["splits"]
    assert contents(out) == contents(tmp_path / "whole")
    assert not list(out.rglob("*.part"))

    manifest = read_manifest(str(out))
    assert manifest.splits["train"].class_counts == (800,) * 10
    assert manifest.splits["eval"].class_counts == (200,) * 10
    everything = names(out, "train") + names(out, "eval")
    assert sorted(everything) == sorted(
        os.path.relpath(path, photos) for path in photos.rglob("*.jpg")
    )
    [first] = tf.data.TFRecordDataset(manifest.paths(str(out), "eval")).take(1)
    feature = tf.train.Example.FromString(first.numpy()).features.feature
    image = tf.io.decode_jpeg(feature["image/encoded"].bytes_list.value[0])
    assert min(image.shape[:2]) == 24
