"""Inference time of exports, compared with `keras.applications` and timm in the same runtimes.

    python -m benchmarks.latency [--cases=b0@224,s@384] [--batches=1,16] [--runtimes=tflite,onnx]

Every contender has random weights and classifies the same float pixels [N, S, S, 3] (timm: [N, 3,
S, S]), each in its own process; they take turns, so that other load on the machine affects all.
Runtimes whose packages are not installed are reported and skipped: the extra `export` has TFLite,
ONNX and OpenVINO, `requirements-sources.txt` timm. Prints milliseconds per image, the median over
rounds, and ratios to the first other contender of the same runtime. --json writes all.
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
from pathlib import Path

from benchmarks.processes import MeasuringProcess

PACKAGES = {  # (network, runtime) -> packages needed in addition to requirements.txt.
    ("ours", "saved_model"): (),
    ("keras.applications", "saved_model"): (),
    ("ours", "tflite"): (),
    ("keras.applications", "tflite"): (),
    ("ours", "onnx"): ("tf2onnx", "onnxruntime"),
    ("timm", "onnx"): ("timm", "onnxscript", "onnxruntime"),
    ("ours", "openvino"): ("tf2onnx", "openvino"),
    ("timm", "openvino"): ("timm", "onnxscript", "openvino"),
}


class Contender(MeasuringProcess):
    """A process of `benchmarks.latency_contenders`, which runs calls at a batch size."""

    def __init__(self, network: str, runtime: str, case: str):
        name = f"{network}, {runtime}"
        super().__init__(name, "benchmarks.latency_contenders", network, runtime, case)
        self.rounds: dict[int, list[dict]] = {}

    def turn(self, batch: int, calls: int) -> None:
        self.rounds.setdefault(batch, []).append(self.ask(f"{batch} {calls}"))


def run_case(case: str, contenders: list[tuple[str, str]], batches: list[int], options) -> dict:
    """Returns {(network, runtime): {batch: rounds}}."""
    running = []
    for network, runtime in contenders:
        print(f"\r{case}: starting {network}, {runtime:30}", end="", file=sys.stderr)
        running.append(Contender(network, runtime, case))
    for number in range(options.rounds):
        print(f"\r{case}: round {number + 1:50}", end="", file=sys.stderr)
        for contender in running if number % 2 == 0 else running[::-1]:
            for batch in batches:
                contender.turn(batch, max(1, options.images // batch))
    for contender in running:
        contender.close()
    print(f"\r{' ' * 70}\r", end="", file=sys.stderr)
    return dict(zip(contenders, (contender.rounds for contender in running), strict=True))


def table(case: str, found: dict, batches: list[int]) -> str:
    """Formats one case: milliseconds per image, and speedup over another in the same runtime."""
    heads = "".join(f"  batch {batch:2}: ms  CPU ms  ratio" for batch in batches)
    lines = [f"{case:34}{heads}"]
    for (network, runtime), rounds in found.items():
        others = [name for name in found if name[1] == runtime and name[0] != "ours"]
        line = f"{network + ', ' + runtime:34}"
        for batch in batches:
            ms = statistics.median(r["seconds"] for r in rounds[batch]) * 1e3 / batch
            cpu = statistics.median(r["cpu_seconds"] for r in rounds[batch]) * 1e3 / batch
            ratio = ""
            if network == "ours" and others:
                pairs = zip(found[others[0]][batch], rounds[batch])
                ratio = f"{statistics.median(b['seconds'] / a['seconds'] for b, a in pairs):.2f}"
            line += f"  {ms:12.1f}  {cpu:6.1f}  {ratio:>5}"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default="b0@224,s@384", help="variant@pixels,…")
    parser.add_argument("--batches", default="1,16")
    parser.add_argument("--runtimes", default="saved_model,tflite,onnx,openvino")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=16, help="of a turn, at each batch")
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()
    batches = [int(batch) for batch in options.batches.split(",")]
    wanted, contenders = options.runtimes.split(","), []
    for name, packages in PACKAGES.items():
        lacking = [package for package in packages if importlib.util.find_spec(package) is None]
        if name[1] in wanted and lacking:
            print(f"without {', '.join(name)}: {', '.join(lacking)} is not installed")
        elif name[1] in wanted:
            contenders.append(name)
    load, results = os.getloadavg()[0], {}
    for case in options.cases.split(","):
        found = run_case(case, contenders, batches, options)
        print(table(case, found, batches) + "\n", flush=True)
        results[case] = {", ".join(name): rounds for name, rounds in found.items()}
    print(
        f"load of the machine: {load:.1f} before, {os.getloadavg()[0]:.1f} after (ours is 1 to 2)"
    )
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
