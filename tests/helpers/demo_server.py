"""--mode=demo in a process of its own, with a tiny network, and its API as the page uses it."""

import contextlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import requests
import tiny_run
from image_folder import make_images

from efficientnetv2 import save_spec
from efficientnetv2.training.checkpoint import save_weights

ROOT = pathlib.Path(__file__).parents[2]
NAMES = tuple(f"kind {number}" for number in range(tiny_run.CLASSES))


@contextlib.contextmanager
def served(folder: pathlib.Path, model, config) -> Iterator[str]:
    """Gives the address of a page about `model`, a `tiny_run.make_model()`."""
    settings = {
        "data.num_classes": tiny_run.CLASSES,
        "eval.isize": config.eval.isize,
        "data.eval_crop": config.data.eval_crop,
        "data.resize_method": config.data.resize_method,
    }
    make_images(folder / "photos", dict.fromkeys(NAMES, 3))
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in NAMES))
    save_spec(tiny_run.SPEC, str(folder / "tiny.json"))
    flags = {
        "mode": "demo",
        "model_name": folder / "tiny.json",
        "weights": save_weights(str(folder / "weights"), model, None, 0),
        "labels": folder / "labels.txt",
        "dataset_cfg": "folder",
        "data_dir": folder / "photos",
        "hparam_str": ",".join(f"{key}={value}" for key, value in settings.items()),
    }
    with subprocess.Popen(
        [sys.executable, "main.py", *(f"--{name}={value}" for name, value in flags.items())],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith('{"url"'):
                break
        else:
            raise RuntimeError("".join(lines))
        try:
            yield json.loads(line)["url"]
        finally:
            process.terminate()


def classify(url: str, photo: pathlib.Path) -> tuple[str, list]:
    """Uploads a photo and asks about it; returns "complete" or "error", and the answer."""
    with open(photo, "rb") as file:
        uploaded = requests.post(f"{url}gradio_api/upload", files={"files": file}, timeout=60)
    (path,) = uploaded.json()
    data = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}
    event = requests.post(f"{url}gradio_api/call/classify", json=data, timeout=60).json()
    where = f"{url}gradio_api/call/classify/{event['event_id']}"
    lines = requests.get(where, timeout=60).text.splitlines()
    kind = next(x for x in reversed(lines) if x.startswith("event: "))
    content = next(x for x in reversed(lines) if x.startswith("data: "))
    return kind.removeprefix("event: "), json.loads(content.removeprefix("data: "))
