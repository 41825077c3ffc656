"""Throughput of the input pipeline, compared with its upper bound and with other libraries.

    python -m benchmarks.input_pipeline --photos=FOLDER [--sizes=128,224] [--only="keras*,ours*"]

FOLDER holds JPEG photos in one folder per class. Each figure is the median of several rounds; a
round measures every pipeline for the same short time, one after the other, so that other load on
the machine affects all of them. Prints a table and writes JSON with --json.
"""

import argparse
import fnmatch
import json
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def measure(make_batches, files: list[str], size: int, batch: int, seconds: float) -> float:
    """Returns the images per second of one pipeline, after a warm-up."""
    batches = make_batches(files, size, batch)
    begun = time.perf_counter()
    while time.perf_counter() < begun + seconds / 2:  # Fill the buffers, settle the autotuner.
        next(batches)
    begun, images = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begun) < seconds:
        next(batches)
        images += batch
    return images / elapsed


def run(files: list[str], sizes: list[int], options) -> dict:
    """Returns {size: {pipeline: images per second of each round}}."""
    from benchmarks.pipelines import installed

    wanted = options.only.split(",")
    found = installed()
    chosen = [name for name in found if any(fnmatch.fnmatch(name, word) for word in wanted)]
    floor = next(iter(found))
    pipelines = {name: found[name] for name in dict.fromkeys([floor, *chosen])}
    results: dict = {}
    for size in sizes:
        rates: dict = {name: [] for name in pipelines}
        for number in range(options.rounds):
            for name, make_batches in pipelines.items():
                print(f"\r{size} px, round {number + 1}: {name:30}", end="", file=sys.stderr)
                rates[name].append(
                    measure(make_batches, files, size, options.batch, options.seconds)
                )
        results[size] = rates
        print(f"\r{' ' * 60}\r{table(size, rates)}\n", flush=True)
    return results


def table(size: int, rates: dict) -> str:
    """Formats one size: images per second, per core, and as a share of the floor in each round."""
    cores = len(os.sched_getaffinity(0))
    floor = next(iter(rates.values()))
    lines = [f"{f'{size} px':30} images/s  per core  of the floor"]
    for name, values in rates.items():
        share = statistics.median(value / base for value, base in zip(values, floor))
        rate = statistics.median(values)
        lines.append(f"{name:30} {rate:8.0f}  {rate / cores:8.0f}  {share:12.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True, help="a folder of JPEG, one folder per class")
    parser.add_argument("--sizes", default="128,192,224,300,380", help="pixels")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=6.0, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="*", help="patterns of the names to measure")
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()
    endings = (".jpg", ".jpeg")
    paths = sorted(Path(options.photos).resolve().glob("*/*"))
    files = [str(path) for path in paths if path.suffix.lower() in endings]
    if not files:
        sys.exit(f"error: {options.photos!r} has no folder with JPEG files; see --help")
    sizes = [int(size) for size in options.sizes.split(",")]
    results = run(files, sizes, options)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
