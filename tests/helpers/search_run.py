"""Searches whose trials are fake: spaces of few points, a study, workers here and as processes.

PYTHONPATH=.:tests/helpers python tests/helpers/search_run.py DIRECTORY BUDGET KERNELS OPTION…

The study is a file in DIRECTORY, or is called as its last part on the server `SEARCH_RUN_STORAGE`.
"""

import functools
import os
import pathlib
import subprocess
import sys
import time

import fake_trial

from efficientnetv2 import hparams
from efficientnetv2.common.console import verbosity
from efficientnetv2.search.space import Backbone, SearchSpace, StageSlot
from efficientnetv2.search.study import SearchStudy, parse_budget
from efficientnetv2.search.worker import Search, Worker
from efficientnetv2.training.signals import EXIT_STOPPED

ROOT = pathlib.Path(__file__).parents[2]
HEARTBEAT = {"EFFICIENTNETV2_SEARCH_HEARTBEAT": "1"}


def small_space(kernels=(3, 5), kinds=("mbconv", "fused"), repeats=(1, 2, 3)) -> SearchSpace:
    """A row of blocks."""
    slot = StageSlot(16, 1, repeats, kinds, kernels, (1,))
    backbone = Backbone("one", 8, 32, (slot,), {"stem_stride": 1})
    baseline = {
        "stage1.kind": kinds[0],
        "stage1.repeats": repeats[0],
        "stage1.kernel": kernels[0],
        "stage1.expand": 1,
    }
    ratios = {"mbconv": (0.25,), "fused": (0.0,)}
    return SearchSpace("small", (backbone,), ratios, ("silu",), baseline)


def open_study(directory) -> SearchStudy:
    path = pathlib.Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    url = os.environ.get("SEARCH_RUN_STORAGE", f"sqlite:///{path}/study.db")
    return SearchStudy(url, path.name, str(path / "study.lock"))


def fake_command(job_file, options=()) -> list[str]:
    return [sys.executable, "-S", fake_trial.__file__, job_file, *options]


def make_worker(directory, study, budget="6", space=None, sampler="random", options=()) -> Worker:
    search = Search(
        space or small_space(),
        str(directory),
        parse_budget(budget),
        hparams.get_config("trial.json"),
        sampler,
    )
    return Worker(search, study, functools.partial(fake_command, options=options))


def start_worker(directory, budget: str, kernels: str, *options: str) -> subprocess.Popen:
    """A worker in a process of its own; the space has these kernels ("3,5") and, of one, a point.

    Its output goes to the file `worker.log` beside the study.
    """
    path = [str(ROOT), str(ROOT / "tests" / "helpers")]
    pathlib.Path(directory).mkdir(parents=True, exist_ok=True)
    with open(os.path.join(directory, "worker.log"), "a") as log:
        return subprocess.Popen(
            [sys.executable, __file__, str(directory), budget, kernels, *options],
            env={**os.environ, **HEARTBEAT, "PYTHONPATH": os.pathsep.join(path)},
            stdout=log,
            stderr=log,
        )


def lives(directory) -> dict[str, list[tuple[int, int]]]:
    """{folder of a trial: (process, worker) of each life}."""
    found = {}
    for file in sorted(pathlib.Path(directory).glob("trials/*/lives")):
        lines = file.read_text().splitlines()
        found[file.parent.name] = [tuple(map(int, line.split())) for line in lines]
    return found


def wait_until(condition, seconds=60) -> None:
    """Waits for something that must come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def main() -> None:
    directory, budget, kernels, *options = sys.argv[1:]
    numbers = tuple(map(int, kernels.split(",")))
    one_point = len(numbers) == 1
    space = small_space(numbers, ("mbconv",), (1,)) if one_point else small_space(numbers)
    study = open_study(directory)
    with verbosity(True):
        done = make_worker(directory, study, budget, space, options=options).run()
    sys.exit(0 if done else EXIT_STOPPED)


if __name__ == "__main__":
    main()
