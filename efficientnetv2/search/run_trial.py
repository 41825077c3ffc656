"""Process of one trial: measures its training step, then trains.

    python -P run_trial.py JOB.json

The job is a `TrialJob`. Steps that are not measured yet are written to its `step_file` and
`baseline_step_file`; measuring and training share one TensorFlow process. A worker starts this
process and decides when it may measure: the process writes `step_file`.ready and waits for a line
on standard input. The end of standard input means that the worker is gone; the process then kills
itself, and its run can be resumed like that of any killed process.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator


class WorkerPipe:
    """The worker that started the process, as seen through standard input."""

    def __init__(self):
        self._may_measure = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while os.read(0, 1):
            self._may_measure.set()
        os.kill(os.getpid(), signal.SIGKILL)

    @contextlib.contextmanager
    def alone(self, ready_file: str) -> Iterator[None]:
        """Waits for exclusive use of the host, which lasts until `step_file` is written."""
        from efficientnetv2.common.files import atomic_write

        atomic_write(ready_file, "")
        self._may_measure.wait()
        yield


def import_package() -> None:
    """Imports `efficientnetv2` from the folder of this file.

    The root of a checkout does not stay on `sys.path`, where its datasets/ would hide the package
    of the same name.
    """
    parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.path.insert(0, parent)
    importlib.import_module("efficientnetv2")
    sys.path.remove(parent)


def measure(job, config, worker: WorkerPipe) -> None:
    """Measures the steps of the trial and of the baseline, unless they are measured already."""
    files = {job.baseline_step_file: job.baseline, job.step_file: job.spec}
    missing = {path: spec for path, spec in files.items() if not os.path.exists(path)}
    if not missing:
        return
    from efficientnetv2 import datasets, hparams
    from efficientnetv2.common.files import atomic_write
    from efficientnetv2.search.measure import measure_step
    from efficientnetv2.training.distribute import make_strategy

    strategy = make_strategy(job.strategy, job.tpu)
    source = datasets.open_source(config.data, "train", config.train.seed)
    config = datasets.with_source_facts(config, {"train": source})
    turn = worker.alone(f"{job.step_file}.ready")
    for path, spec in missing.items():
        measured = measure_step(hparams.with_values(config, model__model_name=spec), strategy, turn)
        atomic_write(path, json.dumps(dataclasses.asdict(measured)))
        turn = None  # Exclusive use lasts until `step_file` is written.


def run(job_file: str, worker: WorkerPipe) -> int:
    """Runs a job; returns the exit status of the process."""
    from absl import logging

    from efficientnetv2.common.errors import UserError
    from efficientnetv2.common.tf_import import import_tensorflow
    from efficientnetv2.search.trial import TrialJob
    from efficientnetv2.training.signals import EXIT_STOPPED, TrainingStopped

    logging.set_verbosity(logging.WARNING)
    try:
        job = TrialJob.load(job_file)
        config = job.config()
        import_tensorflow()
        from efficientnetv2.training.run import train

        measure(job, config, worker)
        result = train(config, job.model_dir, strategy=job.strategy, tpu=job.tpu, verbose=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TrainingStopped as stop:
        print(stop, file=sys.stderr)
        return EXIT_STOPPED
    print(json.dumps(result), flush=True)
    return 0


def main() -> None:
    worker = WorkerPipe()
    import_package()
    sys.exit(run(sys.argv[1], worker))


if __name__ == "__main__":
    main()
