"""Trial process: started, monitored and stopped by a worker.

The process is `run_trial.py`, which measures and trains: its `metrics.jsonl` has the evaluations,
its exit status and log the reason why it ended.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from efficientnetv2 import hparams
from efficientnetv2.common.files import atomic_write
from efficientnetv2.search.measure import HostTurns
from efficientnetv2.training.signals import EXIT_STOPPED

_OUT_OF_MEMORY = ("ResourceExhausted", "RESOURCE_EXHAUSTED", "MemoryError", "std::bad_alloc")
_NOT_FINITE = ("the loss is ", "the gradient's norm ")
HOST = re.sub(r"[^A-Za-z0-9.-]", "_", platform.node()) or "here"
POLL_SECONDS = 0.2
_SECONDS_TO_SAVE = 60.0  # Time for a run to save and stop before it is killed.
_STOPPED = (EXIT_STOPPED, -signal.SIGTERM)  # The latter before training has started.
_TAIL = 20_000  # Bytes at the end of a log that are searched.


def reason_of_end(status: int, log: str) -> str:
    """Returns why a process failed, in one line that starts with "diverged", "killed" etc."""
    lines = [line for line in (line.strip() for line in log.splitlines()) if line]
    told = next((line for line in reversed(lines) if line.startswith("error: ")), "")
    if status in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return "killed: by SIGKILL, which is what a lack of memory ends with"
    if any(word in log for word in _OUT_OF_MEMORY):
        return "out of memory: " + next(
            line[:200] for line in reversed(lines) if any(word in line for word in _OUT_OF_MEMORY)
        )
    if all(word in told for word in _NOT_FINITE):
        return f"diverged: {told.removeprefix('error: ')}"
    if status < 0:
        return f"killed: by {signal.Signals(-status).name}"
    return told or f"error: status {status}, {lines[-1][:200] if lines else 'nothing was logged'}"


def kind_of(reason: str) -> str:
    """Returns the kind of a reason, which similar failures share."""
    kind, _, rest = reason.partition(": ")
    return rest if kind == "error" else kind


@dataclasses.dataclass(frozen=True)
class TrialFiles:
    """Paths of a trial's files: its specification, its job, its run (`folder`) and its log.

    Each host that takes part in the trial has its own job and measured step.
    """

    directory: str  # Folder of all trials.
    number: int

    @property
    def folder(self) -> str:
        """The directory of the run."""
        return os.path.join(self.directory, f"{self.number:04d}")

    @property
    def spec(self) -> str:
        """The network's JSON file."""
        return f"{self.folder}.json"

    @property
    def step(self) -> str:
        """The measured step on this host, JSON."""
        return os.path.join(self.folder, f"step-{HOST}.json")

    @property
    def job(self) -> str:
        """The `TrialJob` on this host, JSON."""
        return os.path.join(self.folder, f"job-{HOST}.json")

    @property
    def log(self) -> str:
        """The output of the process."""
        return os.path.join(self.folder, "log.txt")

    @property
    def metrics(self) -> str:
        """The records of the training."""
        return os.path.join(self.folder, "metrics.jsonl")

    def remove_weights(self) -> None:
        """Removes the checkpoints of a trial that has ended: a thousand of them fill a disk."""
        for name in os.listdir(self.folder):
            if name == "checkpoint" or name.startswith("ckpt-"):
                os.remove(os.path.join(self.folder, name))
        shutil.rmtree(os.path.join(self.folder, "best"), ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class TrialJob:
    """The job of a trial's process, written as JSON: what to measure, and what to train.

    Args:
        spec: file of the trial's network; `step_file` is where its measured step is written.
        baseline, baseline_step_file: likewise for the network that the trial is compared with.
        model_dir: directory of the run.
        dataset_cfg, overrides, weights: as in `hparams.ConfigInputs`; the same for all trials.
        strategy, tpu: as for `train`.
    """

    spec: str
    step_file: str
    baseline: str
    baseline_step_file: str
    model_dir: str
    dataset_cfg: str
    overrides: dict
    weights: dict
    strategy: str = "auto"
    tpu: str | None = None

    def config(self) -> hparams.Config:
        """Returns the config of the trial's training. Raises: UserError as `hparams.get_config`."""
        return hparams.get_config(
            self.spec, self.dataset_cfg, self.overrides, weights_settings=self.weights
        )

    def save(self, path: str) -> None:
        """Writes the job. Raises: UserError if it cannot be written."""
        atomic_write(path, json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def load(cls, path: str) -> "TrialJob":
        """Reads a job that `save` wrote."""
        with open(path, encoding="utf-8") as file:
            return cls(**json.load(file))


def trial_command(job_file: str) -> list[str]:
    """Returns the command of a trial's process."""
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run_trial.py")
    return [sys.executable, "-P", program, job_file]  # -P: its folder hides no modules.


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Outcome of a trial: "complete", "pruned", "stopped", or "failed" with a reason."""

    kind: str
    reason: str = ""


def run_process(
    command: Sequence[str],
    files: TrialFiles,
    turns: HostTurns,
    stopping: Callable[[], bool],
    evaluated: Callable[[list[dict]], bool],
) -> Outcome:
    """Runs the process of a trial to its end.

    Args:
        turns: the host-wide lock; the process measures alone, and pauses while another measures.
        stopping: returns whether the worker should stop; the run then saves and can be resumed.
        evaluated: called with all evaluations so far whenever there is a new one, once the step is
            measured; returns whether to prune.
    """
    os.makedirs(files.folder, exist_ok=True)
    with _lock_of(files, stopping) as lock:
        if lock is None:
            return Outcome("stopped")
        process = _Process(command, files, lock)
        turns.begin_work()
        try:
            return _follow(process, files, turns, stopping, evaluated)
        finally:
            process.end(signal.SIGKILL)
            turns.end_work()


def _follow(process: "_Process", files: TrialFiles, turns, stopping, evaluated) -> Outcome:
    known, over = 0, False
    while not over:
        if stopping():
            process.end(signal.SIGTERM)
            return Outcome("stopped")
        status = process.status()
        over = status is not None  # Its last records are still read below.
        if not over and process.wants_to_measure():
            turns.end_work()
            with turns.alone():
                process.measure(stopping)
            turns.begin_work()
        elif not over:
            turns.give_way(process.pause, process.resume)
        found = read_evaluations(files.metrics) if os.path.exists(files.step) else []
        if len(found) > known:
            known = len(found)
            if evaluated(found) and not over:
                process.end(signal.SIGTERM)
                return Outcome("pruned")
        if not over:
            time.sleep(POLL_SECONDS)
    if status in _STOPPED:  # By someone else, who may stop the worker next.
        return Outcome("stopped")
    if status != 0:
        return Outcome("failed", reason_of_end(status, process.log()))
    return Outcome("complete") if known else Outcome("failed", "error: nothing was evaluated")


class _Process:
    """A process in its own process group, whose standard input is open while the worker lives.

    If the worker is killed, the process sees the end of its input; if it was paused, the system
    terminates it, as it does with stopped process groups that are orphaned.
    """

    def __init__(self, command: Sequence[str], files: TrialFiles, lock: int):
        self._step, self._asked = files.step, False
        self._log, self._log_start = files.log, _size(files.log)
        with contextlib.suppress(FileNotFoundError):
            os.remove(f"{self._step}.ready")
        with open(files.log, "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                process_group=0,
                pass_fds=(lock,),
            )

    def status(self) -> int | None:
        return self._process.poll()

    def log(self) -> str:
        """Returns the output of the process, or the end of it if it is long."""
        with open(self._log, "rb") as file:
            file.seek(max(self._log_start, _size(self._log) - _TAIL))
            return file.read().decode("utf-8", "replace")

    def wants_to_measure(self) -> bool:
        return not self._asked and os.path.exists(f"{self._step}.ready")

    def measure(self, stopping: Callable[[], bool]) -> None:
        """Lets the process measure, and waits until it has."""
        self._asked = True
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
        while self.status() is None and not os.path.exists(self._step) and not stopping():
            time.sleep(POLL_SECONDS)

    def pause(self) -> None:
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def end(self, number: signal.Signals) -> None:
        """Sends a signal that ends the process and waits for its exit; kills it after a timeout."""
        self._send(number)
        self._send(signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_SECONDS_TO_SAVE)
        self._send(signal.SIGKILL)
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def _send(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)


@contextlib.contextmanager
def _lock_of(files: TrialFiles, stopping: Callable[[], bool]):
    """Yields a file descriptor that is locked for this trial; None if stopped before that.

    The process inherits it, so that no one resumes a run while an orphaned process still writes to
    it.
    """
    with open(f"{files.folder}.lock", "a", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stopping():
                    yield None
                    return
                time.sleep(POLL_SECONDS)
        yield file.fileno()


def read_evaluations(path: str) -> list[dict]:
    """Returns the evaluation records of a run that may still be writing."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [line for line in file if line.endswith("\n") and '"kind": "eval"' in line]
    return [json.loads(line) for line in lines]


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0
