"""The notebook, for the tests of its cells and of the whole."""

import pathlib

import nbformat

ROOT = pathlib.Path(__file__).parents[2]
PATH = ROOT / "notebooks" / "finetune.ipynb"


def read() -> nbformat.NotebookNode:
    return nbformat.read(PATH, as_version=4)


def sources() -> dict[str, str]:
    """The code of each cell by its id, in their order."""
    return {cell.id: cell.source for cell in read().cells if cell.cell_type == "code"}
