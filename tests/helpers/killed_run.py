"""Kills runs at random moments, lets the same command go on, and compares what they end with.

    PYTHONPATH=. python tests/helpers/killed_run.py FOLDER --kills=20 --seed=0

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
import traceback

import numpy as np
import tensorflow as tf
from kill_moments import KILLS, STOPPED, STOPS, Life

SETTINGS = (
    "train.epochs=6,train.stages=3,data.splits.train.num_images=32,train.isize=20,data.ibase=12,"
    "runtime.log_step_count_steps=5,runtime.checkpoint_steps=3,runtime.keep_checkpoint_max=2,"
    "eval.best_metric=loss,train.on_nan=rollback,train.lr_base=0.5"
)
RUNS = {"paper": SETTINGS, "random": f"{SETTINGS},train.schedule=random"}


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
