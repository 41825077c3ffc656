"""Run log: progress line, `metrics.jsonl`, TensorBoard scalars."""

import json
import os
import sys
import time
from collections.abc import Sequence

import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import atomic_write
from efficientnetv2.common.text import duration
from efficientnetv2.hparams import Stage
from efficientnetv2.training.checkpoint import writing

SECONDS_BETWEEN_LINES = 10.0  # If the output is not a terminal.
_SHOWN = {  # Evaluation scores that are printed, with their labels.
    "top1": "top-1",
    "top5": "top-5",
    "hit_at_1": "hit@1",
    "hit_at_5": "hit@5",
    "global_ap": "AP",
}


def scores_line(scores: dict) -> str:
    """Returns the loss and the main scores of an evaluation as text."""
    shown = [f"{name} {scores[key]:.4f}" for key, name in _SHOWN.items() if key in scores]
    return "  ".join([f"loss {scores['loss']:.3f}", *shown])


class RunLog:
    """Records of a run in `model_dir`. `count`: number of valid records."""

    def __init__(self, model_dir: str):
        with writing(model_dir):
            os.makedirs(model_dir, exist_ok=True)
        self.path = os.path.join(model_dir, "metrics.jsonl")
        self.count = 0
        self._directory = os.path.join(model_dir, "tensorboard")
        self._writers = {}

    def record(self, kind: str, step: int, stage: int, values: dict) -> None:
        """Appends {"kind", "step", "stage", …} and writes the values as TensorBoard scalars.

        Raises: UserError if it cannot be written.
        """
        line = {"kind": kind, "step": step, "stage": stage, **values}
        with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.count += 1
        with writing(self._directory):
            self._write_scalars(kind, step, values)

    def keep(self, count: int) -> None:
        """Drops all but the first `count` records: the steps after them will be repeated.

        An incomplete last line is dropped, too. Raises: UserError if another line is invalid.
        """
        records, good = self._read()
        self.count = min(count, len(good))
        if len(records) > self.count:
            atomic_write(self.path, "".join(good[: self.count]))

    def last(self, kind: str) -> dict:
        """Returns the newest record of a kind; empty if there is none."""
        records = map(json.loads, reversed(self._read()[1]))
        return next((record for record in records if record["kind"] == kind), {})

    def _read(self) -> tuple[list[str], list[str]]:
        """Returns the lines of the file, and those of them that are valid records."""
        if not os.path.exists(self.path):
            return [], []
        with open(self.path, encoding="utf-8", errors="replace") as file:
            lines = file.readlines()
        good = [line for line in lines if line.endswith("\n") and _is_record(line)]
        if lines[: len(good)] != good:
            number = next(i for i, line in enumerate(lines, 1) if not _is_record(line))
            raise UserError(f"{self.path}: line {number} is no record; take it out, or mend it")
        return lines, good

    def _write_scalars(self, kind: str, step: int, values: dict) -> None:
        if kind not in self._writers:
            directory = os.path.join(self._directory, kind)
            self._writers[kind] = tf.summary.create_file_writer(directory)
        with self._writers[kind].as_default():
            for name, value in values.items():
                if value is not None:
                    tf.summary.scalar(name, value, step=step)
        self._writers[kind].flush()


def _is_record(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


class Counter:
    """A terminal line that counts the progress of a long task and is removed at its end."""

    def __init__(self, what: str, stream=None):
        self.what, self.stream, self.count = what, stream or sys.stdout, 0
        self._shown = time.monotonic()

    def add(self, number: int) -> None:
        """Increases the count and shows it at most every 0.5 seconds."""
        self.count += number
        if self.stream.isatty() and time.monotonic() - self._shown > 0.5:
            self._shown = time.monotonic()
            self.stream.write(f"\r\x1b[K{self.what} {self.count:,}")
            self.stream.flush()

    def close(self) -> None:
        """Removes the line."""
        if self.stream.isatty():
            self.stream.write("\r\x1b[K")


class Progress:
    """The progress line: stage, image size, images/s, loss, accuracy, time left.

    The time left assumes that the cost of a step is proportional to its number of pixels.
    """

    def __init__(self, stages: Sequence[Stage], stream=None):
        self.stages, self.stream = stages, stream or sys.stdout
        self.start_window()
        self._line_time = -SECONDS_BETWEEN_LINES
        self._terminal = self.stream.isatty()

    def start_window(self) -> None:
        """Restarts the speed measurement; call it after any work other than training."""
        self._window_start = time.monotonic()

    def update(
        self, stage: Stage, step: int, images: int, loss: float, accuracy: float
    ) -> float | None:
        """Prints the line; returns the images/s of the `images` since `start_window`."""
        if not images:
            return None
        now = time.monotonic()
        speed = images / max(now - self._window_start, 1e-9)
        self.start_window()
        if self._terminal or now - self._line_time >= SECONDS_BETWEEN_LINES:
            self._line_time = now
            text = (
                f"stage {stage.index + 1}/{len(self.stages)}  {stage.image_size}px  "
                f"step {step}/{self.stages[-1].end_step}  {speed:,.0f} images/s  "
                f"loss {loss:.3f}  accuracy {accuracy:.3f}  left {self._left(stage, step, speed)}"
            )
            self.stream.write(f"\r\x1b[K{text}" if self._terminal else f"{text}\n")
            self.stream.flush()
        return round(speed, 1)

    def message(self, text: str) -> None:
        """Prints a separate line above the progress line."""
        self.stream.write(f"\r\x1b[K{text}\n" if self._terminal else f"{text}\n")
        self.stream.flush()

    def _left(self, stage: Stage, step: int, speed: float) -> str:
        images, stage = 0.0, self.stages[stage.index]  # Of the stage's size; variants mix sizes.
        for other in self.stages[stage.index :]:
            steps = other.end_step - max(other.first_step, step)
            images += steps * other.batch_size * (other.image_size / stage.image_size) ** 2
        return duration(images / speed)
