"""--mode=check_data: the table, the file, the exit status."""

import json
import subprocess
import sys
from pathlib import Path

import broken_files

ROOT = Path(__file__).parents[2]


def run(*flags):
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), "--mode=check_data", *flags],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_good_data_then_bad_data(tmp_path):
    photos = tmp_path / "photos"
    broken_files.make_photos(photos)
    (photos / "train/a/x.jpg").write_bytes(broken_files.HARMLESS["png named jpg"][1])
    flags = ["--dataset_cfg=folder", f"--data_dir={photos}"]
    good = run(*flags)
    assert good.returncode == 0, good.stderr
    last = json.loads(good.stdout.splitlines()[-1])
    assert last["errors"] == 0 and last["kinds"] == {"wrong ending": 1, "small": 1}
    assert last["examples"] == {"train": 13, "minival": 12}
    assert "note  wrong ending" in good.stdout and "2 classes of 6 (b) to 7 (a)" in good.stdout

    for index in range(5):
        (photos / f"train/b/bad{index}.jpg").write_bytes(broken_files.GOLDFISH[: 5000 + index])
    out = tmp_path / "out"
    bad = run(*flags, f"--output_dir={out}")
    assert bad.returncode == 1, bad.stderr
    last = json.loads(bad.stdout.splitlines()[-1])
    assert last["errors"] == 5 and last["kinds"]["truncated"] == 5
    assert "error truncated" in bad.stdout and "bad2.jpg" in bad.stdout
    assert "bad3.jpg" not in bad.stdout  # The first few; all of them are in the file.
    written = json.loads((out / "check_data.json").read_text())
    names = [found["name"] for found in written["findings"] if found["kind"] == "truncated"]
    assert [Path(name).name for name in names] == [f"bad{index}.jpg" for index in range(5)]
    assert written["class_counts"]["train"] == {"a": 7, "b": 6}
    assert "Traceback" not in bad.stderr
