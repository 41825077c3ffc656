"""Text: one-line errors, durations, and the commands that messages mention."""

import os

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def one_line(error: Exception | str, most: int = 200) -> str:
    """Returns the text of an error in one line of at most `most` characters."""
    message = error if isinstance(error, str) else getattr(error, "message", None) or str(error)
    return " ".join(str(message).split())[:most]


def duration(seconds: float) -> str:
    """Returns hours, minutes and seconds: "1:02:03"."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def program() -> tuple[str, ...]:
    """Returns the words that start a command line: `python main.py` in a checkout."""
    checkout = all(os.path.isfile(os.path.join(ROOT, x)) for x in ("main.py", "pyproject.toml"))
    return ("python", "main.py") if checkout else ("efficientnetv2",)


def install_command(extra: str) -> str:
    """Returns the command that adds an extra of pyproject.toml to this installation."""
    if os.path.isfile(os.path.join(ROOT, "pyproject.toml")):  # A checkout or editable install.
        return f'pip install -e "{ROOT}[{extra}]"'
    return f'pip install "efficientnetv2[{extra}]"'
