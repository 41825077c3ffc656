"""Training time with progressive image sizes, compared with the last stage's size throughout.

    python -m benchmarks.stage_schedule [--variant=s] [--batch=8]

Both have the same number of epochs. The steps of every size of `train.schedule=paper` are measured
in turns, as run by `--mode=train`, each size in its own process; a run's time is the sum over its
stages. Tracing is counted separately, since it happens once per stage, however long the run. Prints
a table and writes JSON with --json.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from benchmarks.contenders import VARIANTS
from benchmarks.train_step import Contender
from efficientnetv2 import hparams


def stage_sizes(variant: str) -> list[int]:
    """Returns the image size in pixels of each stage of the paper's schedule."""
    name = VARIANTS[variant][0]
    overrides = "train.schedule=paper,data.splits.train.num_images=1281167"
    config = hparams.get_config(name, "imagenet", overrides)
    return [stage.image_size for stage in hparams.make_stages(config)]


def measured(options, sizes: list[int]) -> dict[int, dict]:
    """Returns {size: figures of its steps}."""
    running = {}
    for size in sorted(set(sizes)):
        print(f"\rstarting {size} px   ", end="", file=sys.stderr)
        running[size] = Contender("ours", f"{options.variant}@{size}", options)
    for number in range(options.rounds):
        print(f"\rround {number + 1}          ", end="", file=sys.stderr)
        for contender in running.values():
            contender.turn(options.steps)
    return {size: contender.close() for size, contender in running.items()}


def summary(figures: dict[int, dict], sizes: list[int], batch: int) -> dict:
    """Returns wall and CPU seconds per image of each stage, and ratios to the fixed size."""
    found = {"sizes": sizes}
    for key in ("seconds", "cpu_seconds"):
        rounds = zip(*(figures[size][key] for size in sizes))
        ratios = [sum(stages) / (len(stages) * stages[-1]) for stages in rounds]
        found[f"{key}_per_image"] = [statistics.median(figures[s][key]) / batch for s in sizes]
        found[f"{key}_ratio"] = statistics.median(ratios)
    first = {size: figures[size]["first_cpu_seconds"] for size in sizes}
    found["tracing_cpu_seconds"] = [first[size] for size in sizes]
    found["tracing_more_cpu_seconds"] = sum(first[size] for size in sizes) - first[sizes[-1]]
    return found


def table(found: dict) -> str:
    lines = ["stage  pixels  images/s  CPU ms per image  first step, CPU s"]
    columns = [
        found[key]
        for key in ("sizes", "seconds_per_image", "cpu_seconds_per_image", "tracing_cpu_seconds")
    ]
    for index, (size, seconds, cpu, first) in enumerate(zip(*columns)):
        row = f"{index + 1:5}  {size:6}  {1 / seconds:8.1f}  {cpu * 1e3:16.1f}  {first:17.1f}"
        lines.append(row)
    lines.append(
        f"paper / fixed, same epochs: {found['seconds_ratio']:.2f} of the time on the clock, "
        f"{found['cpu_seconds_ratio']:.2f} of the CPU's; and for tracing "
        f"{found['tracing_more_cpu_seconds']:.0f} s of CPU once"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="s", choices=[*VARIANTS])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--jit", default="off", choices=("off", "on"), help="XLA")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="of a round")
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()
    if options.rounds < 1 or options.steps < 1 or options.batch < 2:
        sys.exit("error: --rounds and --steps must be at least 1, --batch at least 2")
    sizes = stage_sizes(options.variant)
    found = summary(measured(options, sizes), sizes, options.batch)
    print(f"\r{' ' * 30}\r{table(found)}")
    if options.json:
        text = json.dumps({"settings": vars(options), "results": found}, indent=1)
        Path(options.json).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
