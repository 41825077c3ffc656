"""The notebooks, for the tests of their cells and of the whole."""

import os
import pathlib

import nbformat
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parents[2]
NAMES = ("finetune", "serve")


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def sources(name: str) -> dict[str, str]:
    """The code of each cell by its id, in their order."""
    return {cell.id: cell.source for cell in read(name).cells if cell.cell_type == "code"}


def execute(name: str, settings: dict[str, str], tmp_path, monkeypatch) -> dict:
    """Runs every cell in a kernel of this Python; returns them by their ids.

    `settings` are those of the notebook's form. The user's folders are in `tmp_path`,
    tensorflow_addons cannot be imported, and the repository must stay as it is. A folder named by
    the environment's NOTEBOOK_OUTPUT keeps what the notebook shows.
    """
    variables = _environment(tmp_path, settings)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", variables["JUPYTER_RUNTIME_DIR"])
    monkeypatch.setenv("JUPYTER_DATA_DIR", variables["JUPYTER_DATA_DIR"])
    before = _files_of_the_repository()
    notebook, kept = read(name), os.environ.get("NOTEBOOK_OUTPUT")
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}})
    try:
        client.execute(env=variables)
    finally:
        if kept:
            pathlib.Path(kept).mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, pathlib.Path(kept) / f"{name}.ipynb")
    assert _files_of_the_repository() == before
    return {cell.id: cell for cell in notebook.cells}


def printed(cell) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def shows_picture(cell) -> bool:
    return any("image/png" in output.get("data", {}) for output in cell.outputs)


def _environment(tmp_path: pathlib.Path, settings: dict[str, str]) -> dict[str, str]:
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap/tensorflow_addons.py").write_text("raise SystemExit('imported addons')\n")
    home = tmp_path / "home"
    home.mkdir()
    folders = ("IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("XDG_")},
        **{f"NOTEBOOK_{key}": value for key, value in settings.items()},
        **{key: str(home / key.lower()) for key in folders},
        "HOME": str(home),
        "PYTHONPATH": str(tmp_path / "trap"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _files_of_the_repository() -> set[pathlib.Path]:
    return {*ROOT.iterdir(), *(ROOT / "notebooks").iterdir(), *ROOT.glob("runs/*")}
