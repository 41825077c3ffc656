"""Images per second of training steps, compared with `keras.applications`.

    python -m benchmarks.train_step [--cases=b0@192,s@128] [--batch=16] [--precision=bfloat16]

Every contender trains the same variant on the same batch of random images with the same loss, the
official RMSProp and the same precision, each in its own process, so that peak memory is per
contender. They take turns: a round is a few steps of each, so that other load on the machine
affects all.
"CPU" is the time that a step takes on all cores, which other load on the machine hardly changes.
`ours` is the step of `--mode=train`: with weight decay, the moving average of the weights and the
norm of the gradient, which Keras' own loop, "fit", omits.
Prints a table for each case and writes JSON with --json.
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

from benchmarks.processes import MeasuringProcess

CONTENDERS = ("ours", "ours, fit", "keras.applications, fit")


class Contender(MeasuringProcess):
    """A process of `benchmarks.contenders`, which runs steps on request."""

    def __init__(self, name: str, case: str, options):
        settings = (str(options.batch), options.precision, options.jit)
        super().__init__(name, "benchmarks.contenders", name, case, *settings)
        self.rounds: list[dict] = []

    def turn(self, steps: int) -> None:
        self.rounds.append(self.ask(str(steps)))

    def close(self) -> dict:
        """Ends the process and returns its figures; seconds and CPU seconds per step, by round."""
        self.process.stdin.close()
        memory = self.answer()
        self.process.wait()
        rounds = {key: [made[key] for made in self.rounds] for key in ("seconds", "cpu_seconds")}
        return {**self.first, **memory, **rounds}


def run_case(case: str, options) -> dict:
    """Returns {contender: figures}."""
    wanted = options.only.split(";") if options.only else list(CONTENDERS)
    running = []
    for name in wanted:
        print(f"\r{case}: starting {name:30}", end="", file=sys.stderr)
        running.append(Contender(name, case, options))
    for number in range(options.rounds):
        print(f"\r{case}: round {number + 1:40}", end="", file=sys.stderr)
        for contender in running if number % 2 == 0 else running[::-1]:
            contender.turn(options.steps)
    found = {contender.name: contender.close() for contender in running}
    print(f"\r{' ' * 60}\r{table(case, found, options)}\n", flush=True)
    return found


def table(case: str, found: dict, options) -> str:
    """Formats one case. Ratios are relative to the last contender, as medians over the rounds."""
    base = list(found.values())[-1]
    head = f"{case}, batch {options.batch}, {options.precision}"
    lines = [f"{head:32} images/s   ratio  CPU ratio  first step, s (CPU)  peak MB"]
    for name, figures in found.items():
        rate = options.batch / statistics.median(figures["seconds"])
        ratios = [
            statistics.median(b / a for a, b in zip(figures[key], base[key]))
            for key in ("seconds", "cpu_seconds")
        ]
        first = f"{figures['first_seconds']:.1f} ({figures['first_cpu_seconds']:.1f})"
        lines.append(
            f"{name:32} {rate:8.1f}  {ratios[0]:6.2f}  {ratios[1]:9.2f}  {first:>19}  "
            f"{figures['peak_mb']:7.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default="b0@192,s@128", help="variant@pixels,…")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--jit", default="off", choices=("off", "on"), help="XLA")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=3, help="of a round")
    parser.add_argument("--only", help=f"some of: {';'.join(CONTENDERS)}")
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()
    if options.rounds < 1 or options.steps < 1 or options.batch < 2:
        sys.exit("error: --rounds and --steps must be at least 1, --batch at least 2")
    load = os.getloadavg()[0]
    results = {case: run_case(case, options) for case in options.cases.split(",")}
    print(
        f"load of the machine: {load:.1f} before, {os.getloadavg()[0]:.1f} after (ours is 1 to 2)"
    )
    if options.json:
        settings = {**vars(options), "load": [load, os.getloadavg()[0]]}
        text = json.dumps({"settings": settings, "results": results}, indent=1)
        Path(options.json).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
