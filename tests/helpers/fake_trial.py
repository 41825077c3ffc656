"""Stands in for `run_trial.py` and its training: evaluations at once, without TensorFlow.

    fake_trial.py JOB.json [NAME=VALUE …]

Options: `evaluations` (of the run), `pace` (seconds of each), `linger` (seconds after the last),
`hold` (a file that must be there before the second evaluation), `asks` (waits to be told to
measure), `good` (trials from this number on are poor), `deaf` (to SIGTERM), `orphan` (lives on
without a worker), `ends` (how networks with a first kernel of 5 end: killed, diverged, memory,
crash).
Its folder gets a line in `lives` for each process that worked in it: its id and its worker's.
"""

import json
import os
import signal
import sys
import threading
import time

STOPPED = 75
ENDS = {
    "diverged": (
        "error: the loss is nan, the gradient's norm inf at step 3, learning rate 1e+30; last "
        "good checkpoint: none; lower train.lr_base",
        2,
    ),
    "memory": ("tensorflow.python.framework.errors_impl.ResourceExhaustedError: OOM when", 1),
    "crash": ("error: no such folder of images", 2),
}


def watch_worker(told: threading.Event) -> None:
    while os.read(0, 1):
        told.set()
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    job_file, *rest = sys.argv[1:]
    options = {"evaluations": "3", "pace": "0.02", **dict(one.split("=", 1) for one in rest)}
    with open(job_file) as file:
        job = json.load(file)
    step, folder = job["step_file"], job["model_dir"]
    told = threading.Event()
    if "orphan" not in options:
        threading.Thread(target=watch_worker, args=(told,), daemon=True).start()
    if "deaf" not in options:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(STOPPED))
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(os.path.join(folder, "lives"), "a") as file:
        file.write(f"{os.getpid()} {os.getppid()}\n")
    with open(job["spec"]) as file:
        spec = json.load(file)
    number = int(spec["name"].rpartition("-")[2])
    kernel = spec["blocks"][0]["kernel"]
    if "asks" in options:
        open(f"{step}.ready", "w").close()
        told.wait()
    run_steps = int(options["evaluations"])
    for path, seconds in ((job["baseline_step_file"], 0.1), (step, 0.1 * kernel / 3)):
        measured = {"step_seconds": seconds, "parameters": 1000 * kernel, "run_steps": run_steps}
        with open(f"{path}.part", "w") as file:
            json.dump(measured | {"image_size": 32, "batch_size": 8}, file)
        os.replace(f"{path}.part", path)
    if kernel == 5 and "ends" in options:
        if options["ends"] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        line, status = ENDS[options["ends"]]
        print(line, file=sys.stderr, flush=True)
        os._exit(status)
    metrics = os.path.join(folder, "metrics.jsonl")
    done = 0
    if os.path.exists(metrics):
        with open(metrics) as file:
            done = len(file.readlines())
    poor = number >= int(options.get("good", 10_000))
    for evaluation in range(done + 1, run_steps + 1):
        while evaluation > 1 and "hold" in options and not os.path.exists(options["hold"]):
            time.sleep(0.02)
        time.sleep(float(options["pace"]))
        top1 = (0.1 if poor else 0.5) + 0.01 * evaluation
        with open(metrics, "a") as file:
            file.write(json.dumps({"kind": "eval", "step": evaluation, "top1": top1}) + "\n")
    time.sleep(float(options.get("linger", "0")))  # As a run that saves.
    os._exit(0)


if __name__ == "__main__":
    main()
