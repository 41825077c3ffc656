"""Checkpoints with everything a run needs to go on where it stopped."""

import contextlib
import json
from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from efficientnetv2.compat import tf_variable, var_path
from efficientnetv2.training.checkpoint_files import CheckpointFiles, writing
from efficientnetv2.training.ema import WeightAverage
from hparams import UserError


class RunCheckpoint:
    """Weights, their average, optimizer state, step and `extra` of a run, in `directory`.

    Weights and averages are saved under their paths, so that either Keras generation loads what
    the other saved; `state`, of the optimizer by name, belongs to the generation that wrote it.
    `extra` is what else there is to know, for JSON. `newest`: the step last saved or restored.
    `folder`: where to write instead, for a worker that is not the chief, see `Workers`.
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

        Raises: UserError if it cannot be written; then those that were there before still are.
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
        """Loads the newest checkpoint that is whole; returns its step, or 0 if there is none.

        Tells of each that is damaged, in one line. Raises: UserError if all are, or if it does
        not fit the run.
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
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"cannot resume from {path}: {reason}; "
                "it is of another config: use another --model_dir or remove it"
            ) from error
        self.extra = json.loads(self._extra.text)
        self.newest = number


def has_checkpoint(directory: str) -> bool:
    """Whether a run in `directory` has something to resume from."""
    return bool(CheckpointFiles(directory, 1).numbers())


def save_weights(
    directory: str, model: keras.Model, average: WeightAverage | None, step: int
) -> str:
    """Writes weights and averages alone, for `efficientnetv2.load_weights`; returns the path.

    What was in `directory` before stays until all is written.
    Raises: UserError if it cannot be written.
    """
    checkpoint = tf.train.Checkpoint(
        step=tf.Variable(step, dtype=tf.int64, trainable=False), **_weights(model, average)
    )
    files, number = CheckpointFiles(directory, keep=1), step
    with writing(directory):
        tf.io.gfile.makedirs(directory)
        files.remove_unfinished()
    while number in files.numbers():  # A run that was killed, and is here again.
        number += 1
    return _write(files, number, checkpoint)


def _weights(model: keras.Model, average: WeightAverage | None) -> dict[str, dict]:
    return {
        "weights": {var_path(w): tf_variable(w) for w in model.weights},
        "ema": dict(average.by_path) if average is not None else {},
    }


def _write(files: CheckpointFiles, number: int, checkpoint: tf.train.Checkpoint, advice="") -> str:
    """Writes a checkpoint whole or not at all, and prunes others. Returns its path."""
    path = files.prefix(number)
    try:
        with writing(path, advice):
            files.remove(number)  # One of this number is damaged, or it would not be written again.
            checkpoint.write(path)
            files.seal(number)
    except UserError:
        with contextlib.suppress(OSError):  # The first error is the one to tell.
            files.remove(number)
        raise
    with writing(path, advice):
        files.prune(number)
    return path


class _Text(tf.train.experimental.PythonState):
    """A text in a checkpoint."""

    text = "{}"

    def serialize(self) -> str:
        return self.text

    def deserialize(self, string_value) -> None:
        self.text = tf.compat.as_text(string_value)
