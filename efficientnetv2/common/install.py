"""The pip command that installs an optional dependency."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]


def install_command(extra: str) -> str:
    """Returns the command that adds an extra of pyproject.toml to this installation."""
    if (ROOT / "pyproject.toml").is_file():  # A checkout, or an editable installation of it.
        return f'pip install -e "{ROOT}[{extra}]"'
    return f'pip install "efficientnetv2[{extra}]"'
