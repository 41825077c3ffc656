"""The process of one trial: measures its training step, then trains, by the flags of main.py.

    run_trial.py STEP BASELINE BASELINE_STEP FLAGS…

STEP is where the measured step is written, if it is not there; so is BASELINE_STEP, of the network
in the file BASELINE, by the same settings. TensorFlow starts once for all of it. A worker starts
this, and says when to measure: the process writes STEP.ready and waits for a line on standard
input. Where standard input ends, the worker is gone, and so is the process at once: its run is one
that was killed, and goes on elsewhere.
"""

import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator

import main as command_line
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import atomic_write


class Worker:
    """What the process knows of the worker that started it."""

    def __init__(self):
        self._may_measure = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while os.read(0, 1):
            self._may_measure.set()
        os.kill(os.getpid(), signal.SIGKILL)

    @contextlib.contextmanager
    def alone(self, ready_file: str) -> Iterator[None]:
        """Inside, the worker keeps all others from computing; it ends by writing STEP."""
        atomic_write(ready_file, "")
        self._may_measure.wait()
        yield


def measure(step_file: str, baseline: str, baseline_file: str, worker: Worker) -> None:
    """Writes what is not measured yet, in the settings of the flags."""
    from efficientnetv2.common.tf_import import import_tensorflow

    import_tensorflow()
    from absl import flags
    from modes.common import configured

    from efficientnetv2 import datasets, hparams
    from efficientnetv2.search.measure import measure_step
    from efficientnetv2.training.distribute import make_strategy

    strategy = make_strategy(flags.FLAGS.strategy, flags.FLAGS.tpu)
    config = configured()
    source = datasets.open_source(config.data, "train", config.train.seed)
    config = datasets.with_source_facts(config, {"train": source})
    files = {baseline_file: baseline, step_file: config.model.model_name}
    turn = worker.alone(f"{step_file}.ready")
    for path, spec in files.items():
        if os.path.exists(path):
            continue
        wanted = hparams.with_values(config, model__model_name=spec)
        measured = measure_step(wanted, strategy, turn)
        atomic_write(path, json.dumps(dataclasses.asdict(measured)))
        turn = None  # It lasts until STEP is there.


def main() -> None:
    worker = Worker()
    step_file, baseline, baseline_file, *given = sys.argv[1:]
    left = command_line.parse_flags(["main.py", *given])
    if not (os.path.exists(step_file) and os.path.exists(baseline_file)):
        try:
            measure(step_file, baseline, baseline_file, worker)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
    command_line.main(left)


if __name__ == "__main__":
    main()
