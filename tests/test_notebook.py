"""notebooks/finetune.ipynb: as a file, and all of it in a kernel, as Colab runs it."""

import json
import os
import pathlib
import re
import zipfile

import nbformat
import numpy as np
import published
import pytest
from finetune_notebook import ROOT, read
from nbclient import NotebookClient

from efficientnetv2 import build_from_config
from efficientnetv2.compat import tf_variable
from efficientnetv2.weights.official_names import official_names
from export import load_serving
from hparams import get_config

SHALLOW = "model.depth_coefficient=0.3"  # B0 with one block in most stages: half the time.
SHORT = "train.batch_size=48,train.min_steps=1,train.lr_base=0.02,runtime.log_step_count_steps=3"
SMALL = {"IMAGE_SIZE": "32", "EPOCHS": "2", "MORE_SETTINGS": f"{SHALLOW},{SHORT}"}


def test_the_file_is_clean():
    notebook = read()
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[a-z]+(-[a-z]+)?", name) for name in ids)  # Given, not drawn.
    for cell in notebook.cells:
        assert "tensorflow_addons" not in cell.source
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
            assert len(cell.source.splitlines()) <= 40
            compile(cell.source, cell.id, "exec")


def random_weights(folder: pathlib.Path) -> str:
    """An official checkpoint of the network as it is before training."""
    model = build_from_config(get_config(None, "imagenet", SHALLOW))
    arrays = {
        f"{model.name}/{name}": np.asarray(tf_variable(weight))
        for name, weight in zip(official_names(model).values(), model.weights)
    }
    return published.save_official(arrays, folder / "model")


def environment(tmp_path: pathlib.Path) -> dict[str, str]:
    """The settings, and folders of the user in `tmp_path`; tensorflow_addons cannot be imported."""
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap/tensorflow_addons.py").write_text("raise SystemExit('imported addons')\n")
    home = tmp_path / "home"
    home.mkdir()
    own = {"WEIGHTS": random_weights(tmp_path), "WORK": str(tmp_path / "work"), **SMALL}
    folders = ("IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("XDG_")},
        **{f"FINETUNE_{name}": value for name, value in own.items()},
        **{name: str(home / name.lower()) for name in folders},
        "HOME": str(home),
        "PYTHONPATH": str(tmp_path / "trap"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def files_of_the_repository() -> set[pathlib.Path]:
    return {*ROOT.iterdir(), *(ROOT / "notebooks").iterdir(), *ROOT.glob("runs/*")}


def printed(cell) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


@pytest.mark.slow
def test_from_a_zip_to_answers_of_the_export(tmp_path, monkeypatch):
    """Runs every cell in a kernel of this Python; NOTEBOOK_OUTPUT keeps what it shows."""
    variables = environment(tmp_path)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", variables["JUPYTER_RUNTIME_DIR"])
    monkeypatch.setenv("JUPYTER_DATA_DIR", variables["JUPYTER_DATA_DIR"])
    before = files_of_the_repository()
    notebook, kept = read(), os.environ.get("NOTEBOOK_OUTPUT")
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}})
    try:
        client.execute(env=variables)
    finally:
        if kept:
            pathlib.Path(kept).parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, kept)
    assert files_of_the_repository() == before

    work, cells = tmp_path / "work", {cell.id: cell for cell in notebook.cells}
    assert "nothing, all is there" in printed(cells["stack"])
    for name in ("look", "report", "show"):
        assert any("image/png" in output.get("data", {}) for output in cells[name].outputs)
    scores = json.loads(printed(cells["train"]).rpartition("held out: ")[2])
    assert scores["examples"] == 72 and np.isfinite(scores["loss"])
    (page,) = cells["report-page"].outputs
    assert "<iframe" in page.data["text/html"] and (work / "run/report/report.html").exists()
    with zipfile.ZipFile(work / "export.zip") as archive:
        assert "1/saved_model.pb" in archive.namelist()
    check_answers(printed(cells["compare"]), load_serving(str(work / "export")))


def check_answers(table: str, classify) -> None:
    """The export's answers in the table are those of `infer`, and those of the export."""
    rows = re.findall(r"^export (\S+) (\S+)  infer (\S+) (\S+)  (\S+)$", table, re.MULTILINE)
    assert len(rows) == 6 and len({row[0] for row in rows}) > 1
    for score, label, inferred_score, inferred_label, path in rows:
        assert label == inferred_label
        assert float(score) == pytest.approx(float(inferred_score), abs=1e-5)
        answer = classify([pathlib.Path(path).read_bytes()])
        assert float(score) == pytest.approx(float(np.max(answer["scores"])), abs=1e-5)
        assert answer["labels"].numpy()[0, 0].decode() == label
