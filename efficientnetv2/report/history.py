"""History of a run, finished or not: the records of its `metrics.jsonl`."""

import dataclasses
import json
import os
import statistics
from collections.abc import Sequence

from efficientnetv2.hparams import Config, Stage, differing_keys, make_stages
from efficientnetv2.training.checkpoint import Selection
from efficientnetv2.training.load_trained import Trained
from efficientnetv2.training.run_dir import open_run


@dataclasses.dataclass(frozen=True)
class History:
    """The records of a run, and the stages that they belong to.

    `train` and `evaluations` are the records in the order of their steps; see `run_log.RunLog`.
    """

    stages: tuple[Stage, ...]
    train: tuple[dict, ...]
    evaluations: tuple[dict, ...]

    @property
    def step(self) -> int:
        """The last recorded step."""
        return max([record["step"] for record in (*self.train, *self.evaluations)], default=0)

    @property
    def end_step(self) -> int:
        """The number of steps of the whole run."""
        return self.stages[-1].end_step

    def begun_stages(self) -> tuple[Stage, ...]:
        """Returns the stages of which at least one step was made."""
        return tuple(stage for stage in self.stages if stage.first_step < self.step)


@dataclasses.dataclass(frozen=True)
class Throughput:
    """Training speed of a stage.

    Units: images and megapixels per second, the median of the stage's records; `seconds` is the
    time of all timed images, which excludes the first step of a stage and evaluations.
    """

    stage: Stage
    steps_done: int
    images_per_second: float | None
    megapixels_per_second: float | None
    seconds: float


def read_history(model_dir: str, config: Config) -> History:
    """Reads the records of a run; skips a line that is still being written."""
    path = os.path.join(model_dir, "metrics.jsonl")
    records = []
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            records = [json.loads(line) for line in file if line.endswith("\n")]
    by_kind = {
        kind: tuple(record for record in records if record["kind"] == kind)
        for kind in ("train", "eval")
    }
    return History(make_stages(config), by_kind["train"], by_kind["eval"])


def series(records: Sequence[dict], key: str) -> tuple[list[int], list[float]]:
    """Returns the steps and values of the records that have a value for `key`."""
    having = [record for record in records if record.get(key) is not None]
    return [record["step"] for record in having], [record[key] for record in having]


def throughputs(history: History) -> tuple[Throughput, ...]:
    """Returns the speed of each stage that has begun."""
    return tuple(_throughput(history, stage) for stage in history.begun_stages())


def _throughput(history: History, stage: Stage) -> Throughput:
    own = [record for record in history.train if stage.first_step < record["step"]]
    own = [record for record in own if record["step"] <= stage.end_step]
    done = min(history.step, stage.end_step) - stage.first_step
    timed = [record for record in own if record.get("images_per_second")]
    if not timed:
        return Throughput(stage, done, None, None, 0.0)
    speeds = [record["images_per_second"] for record in timed]
    pixels = [r["images_per_second"] * r.get("image_size", stage.image_size) ** 2 for r in timed]
    starts = dict(zip((record["step"] for record in own[1:]), (record["step"] for record in own)))
    steps = [record["step"] - starts.get(record["step"], stage.first_step) for record in timed]
    seconds = sum(n * stage.batch_size / speed for n, speed in zip(steps, speeds))
    return Throughput(
        stage, done, statistics.median(speeds), statistics.median(pixels) / 1e6, seconds
    )


def is_finished(history: History, config: Config) -> bool:
    """Returns whether the run made its last step, or was stopped early by `eval.patience`."""
    stopped = Selection(config, "").replay(history.evaluations).is_over
    return stopped or history.step >= history.end_step


def run_scores(run: Trained) -> dict | None:
    """Returns scores and step of a run's last evaluation, or of its best for the best checkpoint.

    Returns None if there was no evaluation, for weights that are not from a run, or if overrides
    change the image size, crop or resize method that the run evaluates with.
    """
    if run.model_dir is None:
        return None
    saved, _ = open_run(run.model_dir)
    changed = differing_keys(saved, run.config)
    if {"eval.isize", "data.eval_crop", "data.resize_method"} & set(changed):
        return None
    evaluations = read_history(run.model_dir, saved).evaluations
    if run.checkpoint == "best":
        evaluations = [record for record in evaluations if record["step"] == run.loaded.step]
    if not evaluations:
        return None
    return {key: v for key, v in evaluations[-1].items() if key not in ("kind", "stage")}
