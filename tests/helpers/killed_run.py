"""Kills runs at random moments, lets the same command go on, and compares what they end with.

    python tests/helpers/killed_run.py FOLDER --kills=20 --seed=0

prints a table: the moment of each kill, the step it came at, the step the run went on from, and
whether its run ended with the bits of one that nothing disturbed. Each life of a run is a process
of its own, forked before TensorFlow has started anything.
"""

import argparse
import hashlib
import json
import mmap
import os
import pathlib
import random
import signal
import struct
import sys
import threading
import time
import traceback

import numpy as np
import tensorflow as tf
import tiny_run

import hparams
from efficientnetv2.training import TrainingStopped, checkpoint_files, run_log
from efficientnetv2.training.checkpoint_files import CheckpointFiles
from efficientnetv2.training.evaluation import Evaluator
from efficientnetv2.training.run_log import RunLog
from efficientnetv2.training.selection import Selection
from efficientnetv2.training.stage_steps import StageSteps
from efficientnetv2.training.trainer import Trainer
from efficientnetv2.training.training_loop import TrainingLoop

STOPPED = 75
SETTINGS = (
    "train.epochs=6,train.stages=3,data.splits.train.num_images=32,train.isize=20,data.ibase=12,"
    "runtime.log_step_count_steps=5,runtime.checkpoint_steps=3,runtime.keep_checkpoint_max=2,"
    "eval.best_metric=loss,train.on_nan=rollback,train.lr_base=0.5"
)
RUNS = {"paper": SETTINGS, "random": f"{SETTINGS},train.schedule=random"}
NOT_FINITE = 10  # A step of each run whose labels are no numbers.


def make_batches(stage, first_step):
    return tiny_run.make_poisoned_batches(NOT_FINITE)(stage, first_step)


class Life:
    """One process of a run, which may kill itself."""

    def __init__(self, shared: mmap.mmap, rng: random.Random):
        self.shared, self.rng, self.trainer = shared, rng, None

    def tell(self, slot: int) -> None:
        self.shared[slot * 8 : slot * 8 + 8] = struct.pack("q", self.trainer.step)

    def kill(self, number=signal.SIGKILL) -> None:
        if self.trainer is not None:
            self.tell(1)  # A timer may come before there is a trainer.
        os.kill(os.getpid(), number)

    def kill_soon(self, seconds: float) -> None:
        delay = self.rng.uniform(0, seconds)
        threading.Thread(target=lambda: (time.sleep(delay), self.kill()), daemon=True).start()

    def before(self, owner, name: str, at: int, act) -> None:
        """Lets `act(*arguments)` run before the `at`-th call of a function."""
        function, calls = getattr(owner, name), [0]

        def wrapped(*arguments, **more):
            calls[0] += 1
            if calls[0] == at:
                act(*arguments)
            return function(*arguments, **more)

        setattr(owner, name, wrapped)

    def run(self, directory: str, settings: str) -> int:
        config = tiny_run.make_config(settings)
        stages, strategy = hparams.make_stages(config), tf.distribute.get_strategy()
        self.trainer = Trainer(config, stages, directory, strategy, model=tiny_run.make_quick_model)
        self.tell(0)
        try:
            self.trainer.train(make_batches, tiny_run.make_examples)
        except TrainingStopped:
            return STOPPED
        return 0


def in_a_step(life, at):
    life.before(StageSteps, "make", at, lambda *_: life.kill_soon(0.01))


def writing_a_checkpoint(life, at):
    life.before(tf.train.Checkpoint, "write", at, lambda *_: life.kill_soon(0.03))


def before_the_manifest(life, at):
    life.before(checkpoint_files, "_digest", 2 * at, lambda *_: life.kill())


def writing_the_manifest(life, at):
    def half(files, name, text):
        with open(os.path.join(files.directory, f"{name}.part"), "w") as file:
            file.write(text[: len(text) // 2])
        life.kill()

    life.before(CheckpointFiles, "_replace", 2 * at, half)


def before_the_list(life, at):
    life.before(CheckpointFiles, "list_up_to", at, lambda *_: life.kill())


def removing_old_ones(life, at):
    life.before(checkpoint_files.os, "remove", 2 * at, lambda *_: life.kill())


def in_an_evaluation(life, at):
    life.before(Evaluator, "__call__", at, lambda *_: life.kill_soon(0.3))


def after_an_evaluation(life, at):
    life.before(Selection, "evaluated", at, lambda *_: life.kill())


def writing_the_best(life, at):
    soon = (lambda *_: life.kill_soon(0.03)) if at % 2 else (lambda *_: life.kill())
    life.before(Trainer, "save_best", at, soon)


def between_stages(life, at):
    life.before(TrainingLoop, "_train_stage", at + 1, lambda *_: life.kill())


def writing_a_record(life, at):
    def half(log, kind, step, stage, values):
        with open(log.path, "a") as file:
            file.write(json.dumps({"kind": kind, "step": step, **values})[:-9])
        life.kill()

    life.before(RunLog, "record", at, half)


def dropping_records(life, at):
    life.before(run_log.os, "replace", 1, lambda *_: life.kill())


def going_back(life, at):
    life.before(Trainer, "restore", 2, lambda *_: life.kill())


def at_any_time(life, at):
    life.kill_soon(5.0)


def stopping_in_a_step(life, at):
    life.before(StageSteps, "make", at, lambda *_: life.kill(signal.SIGTERM))


def stopping_before_an_evaluation(life, at):
    life.before(Evaluator, "__call__", at, lambda *_: life.kill(signal.SIGTERM))


KILLS = (
    in_a_step,
    writing_a_checkpoint,
    before_the_manifest,
    writing_the_manifest,
    before_the_list,
    removing_old_ones,
    in_an_evaluation,
    after_an_evaluation,
    writing_the_best,
    between_stages,
    writing_a_record,
    dropping_records,
    going_back,
    at_any_time,
)
STOPS = (stopping_in_a_step, stopping_before_an_evaluation)


def live(directory, settings, moment=None, at=0, seed=0) -> tuple[int, int, int]:
    """Lets a run live once; returns its exit status, the step it began at and the last one.

    A step is -1 where the life ended before it got there.
    """
    shared = mmap.mmap(-1, 16)
    shared[:16] = struct.pack("qq", -1, -1)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with open(os.devnull, "w") as nothing:
                sys.stdout = nothing
                life = Life(shared, random.Random(seed))
                if moment is not None:
                    moment(life, at)
                status = life.run(str(directory), settings)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, STOPPED, -signal.SIGKILL):
        raise RuntimeError(f"a run ended with status {status}, {moment}")
    return status, *struct.unpack("qq", shared[:16])


def outcome(directory) -> dict[str, str]:
    """What a run ended with: a digest of each tensor of its files, and its records."""
    found = {}
    for folder in (directory, directory / "best"):
        reader = tf.train.load_checkpoint(str(folder))
        for key in sorted(reader.get_variable_to_shape_map()):
            value = np.asarray(reader.get_tensor(key))
            content = value.item() if value.dtype == object else value.tobytes()
            found[f"{folder.name} {key}"] = hashlib.sha256(content).hexdigest()
    for number, line in enumerate((directory / "metrics.jsonl").read_text().splitlines()):
        record = json.loads(line)
        record.pop("images_per_second", None)
        found[f"record {number}"] = json.dumps(record)
    return {key.replace(directory.name, "run"): value for key, value in found.items()}


def outcome_elsewhere(directory) -> dict[str, str]:
    """`outcome` in a process of its own, for this one must not start TensorFlow."""
    file = directory / "outcome.json"
    child = os.fork()
    if child == 0:
        try:
            file.write_text(json.dumps(outcome(directory)))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return json.loads(file.read_text())


def rows(folder: pathlib.Path, kills: int, seed: int):
    """Yields (run, moment, step reached, went on from, equal) until so many were killed."""
    rng = random.Random(seed)
    expected = {}
    for name, settings in RUNS.items():
        live(folder / name, settings)
        expected[name] = outcome_elsewhere(folder / name)
        assert any("record" in key for key in expected[name])
    waiting, number = [], 0
    while kills > 0:
        number += 1
        name = list(RUNS)[number % len(RUNS)]
        directory, disturbed, status = folder / f"run-{number}", [], None
        while status != 0:
            if not waiting:
                waiting = [*KILLS, rng.choice(STOPS)]
                rng.shuffle(waiting)
            moment = waiting.pop() if kills > 0 else None
            at = rng.randint(1, 3)
            status, first, last = live(directory, RUNS[name], moment, at, rng.random())
            if first >= 0:
                for row in disturbed:
                    row[3] = first if row[3] is None else row[3]
            if status != 0:
                what = moment.__name__.replace("_", " ")
                disturbed.append([f"{name} {number}", what, last if last >= 0 else "start", None])
                kills -= status == -signal.SIGKILL
        same = outcome_elsewhere(directory) == expected[name]
        yield from ((*row, same) for row in disturbed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("| run | killed | at step | went on from | equal at the end |\n|---|---|---|---|---|")
    for run, moment, reached, resumed, same in rows(given.folder, given.kills, given.seed):
        equal = "yes" if same else "NO"
        print(f"| {run} | {moment} | {reached} | {resumed} | {equal} |", flush=True)


if __name__ == "__main__":
    main()
