"""Moments at which a run kills itself: a `Life` is one process of a run."""

import json
import mmap
import os
import random
import signal
import struct
import threading
import time

import tensorflow as tf
import tiny_run

from efficientnetv2 import hparams
from efficientnetv2.training import checkpoint, run_log
from efficientnetv2.training.checkpoint import CheckpointFiles, Selection
from efficientnetv2.training.metrics import Evaluator
from efficientnetv2.training.run_log import RunLog
from efficientnetv2.training.signals import TrainingStopped
from efficientnetv2.training.trainer import StageSteps, Trainer, TrainingLoop

STOPPED = 75


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
    life.before(checkpoint, "sha256_of", 2 * at, lambda *_: life.kill())


def writing_the_manifest(life, at):
    def half(files, name, text):
        with open(os.path.join(files.directory, f"{name}.part"), "w") as file:
            file.write(text[: len(text) // 2])
        life.kill()

    life.before(CheckpointFiles, "_replace", 2 * at, half)


def before_the_list(life, at):
    life.before(CheckpointFiles, "list_up_to", at, lambda *_: life.kill())


def removing_old_ones(life, at):
    life.before(checkpoint.os, "remove", 2 * at, lambda *_: life.kill())


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
