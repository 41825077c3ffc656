"""Processes that run measurements on request."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


class MeasuringProcess:
    """A module of `benchmarks` in its own process, which answers each line with a line of JSON.

    `first` is its output when it is ready; between answers it is idle.
    """

    def __init__(self, name: str, module: str, *arguments: str):
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = self.answer()

    def ask(self, line: str) -> dict:
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"error: {self.name!r} ended with status {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """Closes the input of the process, and waits for its exit."""
        self.process.stdin.close()
        self.process.wait()
