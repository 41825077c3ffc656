"""The notebooks as files; and all of finetune.ipynb in a kernel, as Colab runs it."""

import json
import pathlib
import re
import zipfile

import nbformat
import numpy as np
import published
import pytest
from notebook_runs import NAMES, execute, printed, read, shows_picture, sources

from efficientnetv2 import build_from_config
from efficientnetv2.export.predict import load_serving
from efficientnetv2.hparams import get_config
from efficientnetv2.network.compat import tf_variable
from efficientnetv2.weights.tf_checkpoint import official_names

SHALLOW = "model.depth_coefficient=0.3"  # B0 with one block in most stages: half the time.
SHORT = "train.batch_size=48,train.min_steps=1,train.lr_base=0.02,runtime.log_step_count_steps=3"
SMALL = {"IMAGE_SIZE": "32", "EPOCHS": "2", "MORE_SETTINGS": f"{SHALLOW},{SHORT}"}


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_clean(name):
    notebook = read(name)
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


def test_both_notebooks_set_up_the_project_alike():
    finetune, serve = sources("finetune"), sources("serve")
    common = ("project", "stack", "install", "run")
    assert [finetune[name] for name in common] == [serve[name] for name in common]


def random_weights(folder: pathlib.Path) -> str:
    """An official checkpoint of the network as it is before training."""
    model = build_from_config(get_config(None, "imagenet", SHALLOW))
    arrays = {
        f"{model.name}/{name}": np.asarray(tf_variable(weight))
        for name, weight in zip(official_names(model).values(), model.weights)
    }
    return published.save_official(arrays, folder / "model")


@pytest.mark.slow
def test_from_a_zip_to_answers_of_the_export(tmp_path, monkeypatch):
    work = tmp_path / "work"
    settings = {"WEIGHTS": random_weights(tmp_path), "WORK": str(work), **SMALL}
    cells = execute("finetune", settings, tmp_path, monkeypatch)
    assert "nothing, all is there" in printed(cells["stack"])
    assert all(shows_picture(cells[name]) for name in ("look", "report", "show"))
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
