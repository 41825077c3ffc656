"""Checkpoints with everything needed to resume, and selection of the best weights.

A checkpoint is complete once its manifest exists:

ckpt-8.index, ckpt-8.data-00000-of-00001   written by TensorFlow
ckpt-8.json                                the manifest: size and SHA-256 of each; written last
checkpoint                                 TensorFlow's list of checkpoints, newest and all kept
"""

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping

import keras
import tensorflow as tf

from efficientnetv2.common.errors import UserError, reason_of
from efficientnetv2.common.files import atomic_write, sha256_of
from efficientnetv2.common.text import one_line
from efficientnetv2.hparams import Config
from efficientnetv2.network.compat import tf_variable, var_path
from efficientnetv2.training.ema import WeightAverage

_OWN = re.compile(r"ckpt-(\d+)(\.(index|json|data-\d+-of-\d+).*|_temp)")
_STATE_FILE = "checkpoint"
BEST_FOLDER, BEST_FILE = "best", "best.json"
# Metrics of an evaluation that are valid values of `eval.best_metric`.
SINGLE_LABEL = ("loss", "top1", "top5")
MULTI_LABEL = ("loss", "hit_at_1", "hit_at_5", "global_ap")


class CheckpointFiles:
    """The checkpoints in a folder, identified by number; the `keep` newest are kept."""

    def __init__(self, directory: str, keep: int):
        self.directory, self.keep = directory, keep

    def prefix(self, number: int) -> str:
        """Returns the path of a checkpoint without its extensions."""
        return os.path.join(self.directory, f"ckpt-{number}")

    def numbers(self) -> list[int]:
        """Returns the numbers of all finished checkpoints, oldest first, damaged ones included.

        A checkpoint without a manifest is included if TensorFlow's list contains it, which means
        that it was finished at some point.
        """
        sealed = {n for n in self._files() if os.path.exists(f"{self.prefix(n)}.json")}
        return sorted(sealed | (self._listed() & set(self._files())))

    def fault(self, number: int) -> str | None:
        """Returns why a checkpoint is damaged, or None if all files match its manifest."""
        manifest = f"{self.prefix(number)}.json"
        try:
            with open(manifest, encoding="utf-8") as file:
                files = dict(json.load(file)["files"])
            for name, (size, digest) in files.items():
                path = os.path.join(self.directory, name)
                if os.path.getsize(path) != size:
                    return f"{name} has {os.path.getsize(path)} bytes, not {size}"
                if sha256_of(path) != digest:
                    return f"{name} is not what was written: its SHA-256 differs"
        except OSError as error:
            return f"{os.path.basename(error.filename or manifest)}: {error.strerror}"
        except (ValueError, TypeError, KeyError):
            return f"{os.path.basename(manifest)} is no manifest"
        return None

    def seal(self, number: int) -> None:
        """Completes a written checkpoint: writes its manifest, then updates TensorFlow's list."""
        files = {}
        for name in sorted(self._files()[number]):
            path = os.path.join(self.directory, name)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            files[name] = (os.path.getsize(path), sha256_of(path))
        self._replace(f"ckpt-{number}.json", json.dumps({"files": files}, indent=1))
        self.list_up_to(number)

    def list_up_to(self, number: int) -> None:
        """Writes TensorFlow's list with `number` as the newest checkpoint."""
        kept = [n for n in self.numbers() if n <= number][-self.keep :]
        lines = [f'model_checkpoint_path: "ckpt-{number}"']
        lines += [f'all_model_checkpoint_paths: "ckpt-{n}"' for n in kept]
        self._replace(_STATE_FILE, "\n".join(lines) + "\n")

    def prune(self, newest: int) -> None:
        """Removes all checkpoints but the `keep` newest ones up to `newest`."""
        kept = [n for n in self.numbers() if n <= newest][-self.keep :]
        for number in self._files():
            if number not in kept:
                self.remove(number)

    def remove(self, number: int) -> None:
        """Removes a complete or partial checkpoint, its manifest first."""
        names = self._files().get(number, [])
        for name in sorted(names, key=lambda name: not name.endswith(".json")):
            path = os.path.join(self.directory, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)

    def remove_unfinished(self) -> None:
        """Removes unfinished checkpoints that a killed process left behind."""
        for number in set(self._files()) - set(self.numbers()):
            self.remove(number)

    def _files(self) -> dict[int, list[str]]:
        """Returns the names of all checkpoint files and folders, by checkpoint number."""
        found: dict[int, list[str]] = {}
        names = os.listdir(self.directory) if os.path.isdir(self.directory) else []
        for name in names:
            if own := _OWN.fullmatch(name):
                found.setdefault(int(own[1]), []).append(name)
        return found

    def _listed(self) -> set[int]:
        try:
            with open(os.path.join(self.directory, _STATE_FILE), encoding="utf-8") as file:
                return {int(n) for n in re.findall(r'_paths?: ".*?ckpt-(\d+)"', file.read())}
        except FileNotFoundError:
            return set()

    def _replace(self, name: str, text: str) -> None:
        path = os.path.join(self.directory, name)
        with open(f"{path}.part", "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{path}.part", path)


@contextlib.contextmanager
def writing(path: str, advice: str = "") -> Iterator[None]:
    """Handles write errors of the disk or TensorFlow inside the context.

    Raises: UserError naming `path` and the reason.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"cannot write {path}: {reason_of(error)[-200:]}{advice}") from error


class RunCheckpoint:
    """Weights, their average, optimizer state, step and `extra` of a run, in `directory`.

    Weights and averages are saved under their paths, so that Keras 2 and Keras 3 can load each
    other's; `state`, the optimizer state by name, is specific to the generation that wrote it.
    `extra` is any other state, as JSON. `newest` is the step last saved or restored. `folder` is
    the folder to write to instead, for workers other than the chief, see `Workers`.
    """

    def __init__(
        self,
        directory: str,
        model: keras.Model,
        state: Mapping[str, tf.Variable],
        average: WeightAverage | None,
        keep: int,
        folder: str | None = None,
    ):
        self.files = CheckpointFiles(directory, keep)
        self._is_chief = folder in (None, directory)
        self._written = self.files if self._is_chief else CheckpointFiles(folder, keep=1)
        self.newest: int | None = None
        self.extra: dict = {}
        self._extra = _Text()
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._checkpoint = tf.train.Checkpoint(
            step=self._step,
            extra=self._extra,
            optimizer=dict(state),
            **_weights(model, average),
        )

    @property
    def path(self) -> str | None:
        """The prefix of the newest checkpoint that is known to be good."""
        return None if self.newest is None else self.files.prefix(self.newest)

    def save(self, step: int, extra: Mapping | None = None) -> str:
        """Writes a checkpoint, prunes old ones and returns its path.

        Raises: UserError if it cannot be written; the existing checkpoints are then kept.
        """
        self.extra = dict(extra or {})
        self._extra.text = json.dumps(self.extra)
        self._step.assign(step)
        last = f" from {self.path}" if self.path else ""
        advice = f"; make room, and the same command goes on{last}"
        path = _write(self._written, step, self._checkpoint, advice)
        self.newest = step
        return path

    def restore(self, tell: Callable[[str], None] = print) -> int:
        """Loads the newest intact checkpoint; returns its step, or 0 if there are no checkpoints.

        Reports each damaged checkpoint in one line. Raises: UserError if all are damaged, or if
        the checkpoint does not match the run.
        """
        if self._is_chief:
            with writing(self.files.directory):
                self.files.remove_unfinished()
        faults = []
        for number in reversed(self.files.numbers()):
            fault = self.files.fault(number)
            if fault is None:
                self._read(number)
                if self._is_chief:
                    with writing(self.files.directory):
                        self.files.list_up_to(number)
                return number
            faults.append(f"ckpt-{number} is damaged ({fault})")
            tell(f"{faults[-1]}: using the one before")
        if faults:
            raise UserError(
                f"{self.files.directory} has no checkpoint that is whole: {'; '.join(faults)}; "
                "put one back, or use another --model_dir"
            )
        return 0

    def _read(self, number: int) -> None:
        path = self.files.prefix(number)
        try:
            self._checkpoint.read(path).assert_consumed()
        except (tf.errors.OpError, AssertionError, IndexError, ValueError) as error:
            reason = one_line(str(error))
            raise UserError(
                f"cannot resume from {path}: {reason}; "
                "it is of another config: use another --model_dir or remove it"
            ) from error
        self.extra = json.loads(self._extra.text)
        self.newest = number


def has_checkpoint(directory: str) -> bool:
    """Returns whether `directory` contains a checkpoint to resume from."""
    return bool(CheckpointFiles(directory, 1).numbers())


def save_weights(
    directory: str, model: keras.Model, average: WeightAverage | None, step: int
) -> str:
    """Writes only weights and averages, for `efficientnetv2.load_weights`; returns the path.

    The previous content of `directory` is kept until everything is written.
    Raises: UserError if it cannot be written.
    """
    checkpoint = tf.train.Checkpoint(
        step=tf.Variable(step, dtype=tf.int64, trainable=False), **_weights(model, average)
    )
    files, number = CheckpointFiles(directory, keep=1), step
    with writing(directory):
        tf.io.gfile.makedirs(directory)
        files.remove_unfinished()
    while number in files.numbers():  # A killed run has reached this step again.
        number += 1
    return _write(files, number, checkpoint)


def _weights(model: keras.Model, average: WeightAverage | None) -> dict[str, dict]:
    return {
        "weights": {var_path(w): tf_variable(w) for w in model.weights},
        "ema": dict(average.by_path) if average is not None else {},
    }


def _write(files: CheckpointFiles, number: int, checkpoint: tf.train.Checkpoint, advice="") -> str:
    """Writes a checkpoint completely or not at all and prunes old ones; returns its path."""
    path = files.prefix(number)
    try:
        with writing(path, advice):
            files.remove(number)  # One with this number is damaged, or it would not be rewritten.
            checkpoint.write(path)
            files.seal(number)
    except UserError:
        with contextlib.suppress(OSError):  # Report the first error.
            files.remove(number)
        raise
    with writing(path, advice):
        files.prune(number)
    return path


class _Text(tf.train.experimental.PythonState):
    """A string stored in a checkpoint."""

    text = "{}"

    def serialize(self) -> str:
        return self.text

    def deserialize(self, string_value) -> None:
        self.text = tf.compat.as_text(string_value)


class Selection:
    """The best evaluation so far by `eval.best_metric`: lowest loss, or highest other metric.

    Of equal scores the earlier is the best, and a NaN score is never an improvement. Without a
    metric, no weights are kept and training is not stopped early.
    Raises: UserError if the metric is not one that evaluations on this data compute.
    """

    def __init__(self, config: Config, model_dir: str):
        self.metric, self.patience = config.eval.best_metric, config.eval.patience
        self.directory = os.path.join(model_dir, BEST_FOLDER)
        self.step: int | None = None
        self.value: float | None = None
        self.waited = 0  # Evaluations since the best one.
        if self.metric is not None:
            _check_metric(self.metric, MULTI_LABEL if config.data.multiclass else SINGLE_LABEL)

    @property
    def is_over(self) -> bool:
        """Whether `eval.patience` evaluations have passed without a better one."""
        return self.patience is not None and self.waited >= self.patience

    def evaluated(self, step: int, scores: dict, save_best: Callable[[str], None]) -> bool:
        """Records an evaluation; returns whether training should stop.

        `save_best(directory)` writes the evaluated weights; it is called if they are the best so
        far. Then `best.json`, {"step", "metric", "value"}, is written next to them.
        Raises: UserError if the scores lack the metric, or `best.json` cannot be written.
        """
        if self.metric is None:
            return False
        if self._take(step, scores):
            save_best(self.directory)
            best = {"step": self.step, "metric": self.metric, "value": self.value}
            atomic_write(os.path.join(self.directory, BEST_FILE), json.dumps(best))
        return self.is_over

    def state(self) -> dict:
        """Returns the state needed to resume, for JSON, which preserves floats exactly."""
        return {"step": self.step, "value": self.value, "waited": self.waited}

    def restore(self, state: dict) -> None:
        """Restores a value returned by `state`."""
        self.step, self.value, self.waited = state["step"], state["value"], state["waited"]

    def replay(self, evaluations: Iterable[dict]) -> "Selection":
        """Records past evaluations without writing any files; returns itself."""
        for record in evaluations:
            if self.metric is not None:
                self._take(record["step"], record)
        return self

    def _take(self, step: int, scores: dict) -> bool:
        _check_metric(self.metric, scores)
        value = float(scores[self.metric])
        sign = -1 if self.metric == "loss" else 1
        best = -math.inf if self.value is None else sign * self.value
        if sign * value > best:
            self.step, self.value, self.waited = step, value, 0
            return True
        self.waited += 1
        return False


def read_best(model_dir: str) -> dict | None:
    """Returns the content of `best.json`: step, metric and value; None if there is none."""
    path = os.path.join(model_dir, BEST_FOLDER, BEST_FILE)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _check_metric(metric: str, known: Iterable[str]) -> None:
    if metric in known:
        return
    measured = [name for name in (*SINGLE_LABEL, *MULTI_LABEL[1:]) if name in known]
    raise UserError(
        f"eval.best_metric={metric} is not measured on this data; choose {', '.join(measured)}"
    )
