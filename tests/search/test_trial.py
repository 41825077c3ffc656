"""The process of a trial, followed from outside; the processes are fake, signals and files real."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from search_run import fake_command, small_space, wait_until

from efficientnetv2 import hparams
from efficientnetv2.hparams.spec import save_spec
from efficientnetv2.search import run_trial
from efficientnetv2.search.measure import HostTurns
from efficientnetv2.search.space import baseline_spec
from efficientnetv2.search.trial import TrialFiles, TrialJob, reason_of_end, run_process


@pytest.fixture
def files(tmp_path):
    return TrialFiles(str(tmp_path / "trials"), 4)


def job_of(files, **more) -> TrialJob:
    """Of a trial next to the baseline's step."""
    step = f"{files.directory}/baseline-step.json"
    given = {"dataset_cfg": "shapes", "overrides": {}, "weights": {}, **more}
    return TrialJob(files.spec, files.step, "", step, files.folder, **given)


def followed(files, *options, kernel=3, stopping=lambda: False, evaluated=lambda found: False):
    """Runs a fake trial; returns its outcome."""
    os.makedirs(files.directory, exist_ok=True)
    spec = baseline_spec(small_space(kernels=(kernel,)))
    save_spec(spec.__class__(**{**vars(spec), "name": "small-0004"}), files.spec)
    os.makedirs(files.folder, exist_ok=True)
    job_of(files).save(files.job)
    turns = HostTurns(stopping)
    command = fake_command(files.job, options)
    try:
        return run_process(command, files, turns, stopping, evaluated)
    finally:
        turns.close()


def evaluations(files) -> list[int]:
    with open(files.metrics) as file:
        return [json.loads(line)["step"] for line in file]


def processes(files) -> list[int]:
    with open(os.path.join(files.folder, "lives")) as file:
        return [int(line.split()[0]) for line in file]


def is_alive(process: int) -> bool:
    """Whether it runs; one that has ended and nobody asked about does not."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_every_evaluation_is_told_and_the_end_is_complete(files):
    told = []
    outcome = followed(files, evaluated=lambda found: told.append(list(found)))
    assert outcome.kind == "complete"
    assert [one["step"] for one in told[-1]] == [1, 2, 3]
    assert told[-1][2]["top1"] == pytest.approx(0.53)


def test_a_trial_that_is_pruned_is_ended(files):
    outcome = followed(
        files, "evaluations=500", "pace=0.1", evaluated=lambda found: len(found) >= 2
    )
    assert outcome.kind == "pruned"
    assert len(evaluations(files)) < 100
    assert not any(map(is_alive, processes(files)))


def test_a_trial_that_is_stopped_goes_on_where_it_was(files):
    def has_begun():
        return os.path.exists(files.metrics)

    outcome = followed(files, "hold=/nowhere/there", stopping=has_begun)
    assert outcome.kind == "stopped"
    assert evaluations(files) == [1]
    assert followed(files).kind == "complete"
    assert evaluations(files) == [1, 2, 3]
    assert len(processes(files)) == 2


@pytest.mark.parametrize(
    "ends, reason",
    [
        ("killed", "killed: by SIGKILL, which is what a lack of memory ends with"),
        ("memory", "out of memory: tensorflow.python.framework.errors_impl.ResourceExhaustedError"),
        ("diverged", "diverged: the loss is nan, the gradient's norm inf at step 3"),
        ("crash", "error: no such folder of images"),
    ],
)
def test_how_a_process_failed_is_told(files, ends, reason):
    outcome = followed(files, f"ends={ends}", kernel=5)
    assert outcome.kind == "failed"
    assert outcome.reason.startswith(reason)


def test_of_an_earlier_life_the_log_is_not_read(files):
    os.makedirs(files.folder)
    with open(files.log, "w") as log:
        log.write("ResourceExhaustedError: OOM\n")
    assert followed(files, "ends=crash", kernel=5).reason == "error: no such folder of images"


@pytest.mark.parametrize(
    "status, log, reason",
    [
        (137, "", "killed: by SIGKILL, which is what a lack of memory ends with"),
        (-11, "", "killed: by SIGSEGV"),
        (1, "Traceback\nMemoryError\n", "out of memory: MemoryError"),
        (2, "error: the loss is of type x\n", "error: the loss is of type x"),
        (1, "Traceback\nKeyError: 'a'\n\n", "error: status 1, KeyError: 'a'"),
        (3, "", "error: status 3, nothing was logged"),
    ],
)
def test_the_reason_of_a_status_and_a_log(status, log, reason):
    assert reason_of_end(status, log) == reason


def test_a_process_measures_when_nobody_works_any_more(files):
    working = HostTurns()
    working.begin_work()
    seen = []

    def stopping():
        """Looked at all the time: lets the worker go on once it has waited for its turn."""
        waits = os.path.exists(f"{files.step}.ready") and not os.path.exists(files.step)
        seen.append(waits)
        if seen.count(True) == 8:
            working.end_work()
        return False

    assert followed(files, "asks=1", stopping=stopping).kind == "complete"
    assert seen.count(True) >= 8
    working.close()


def test_a_trial_pauses_while_another_measures(files):
    measuring, counts = HostTurns(), []

    def measure():
        wait_until(lambda: os.path.exists(files.metrics))
        with measuring.alone():
            counts.append(len(evaluations(files)))
            time.sleep(1)
            counts.append(len(evaluations(files)))

    thread = threading.Thread(target=measure)
    thread.start()
    assert followed(files, "evaluations=20", "pace=0.1").kind == "complete"
    thread.join()
    assert counts[0] == counts[1] < 20
    assert evaluations(files) == list(range(1, 21))
    measuring.close()


@pytest.mark.parametrize("paused", [False, True])
def test_a_process_does_not_outlive_its_worker(files, paused):
    worker = os.fork()
    if worker == 0:
        try:
            followed(files, "hold=/nowhere/there")
        finally:
            os._exit(1)
    wait_until(lambda: os.path.exists(files.metrics))
    [process] = processes(files)
    measuring = HostTurns()
    if paused:
        with measuring.alone():
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda: not is_alive(process))
    else:
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not is_alive(process))
    os.waitpid(worker, 0)
    measuring.close()


def test_while_a_process_that_was_left_behind_writes_nobody_else_does(files):
    worker = os.fork()
    if worker == 0:
        try:
            followed(files, "hold=/nowhere/there", "orphan=1")
        finally:
            os._exit(1)
    wait_until(lambda: os.path.exists(files.metrics))
    [process] = processes(files)
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    end = time.monotonic() + 1
    assert followed(files, stopping=lambda: time.monotonic() > end).kind == "stopped"
    assert processes(files) == [process]
    os.kill(process, signal.SIGKILL)
    assert followed(files).kind == "complete"
    assert evaluations(files) == [1, 2, 3]


def test_a_job_is_read_as_it_was_written_and_has_the_config_of_its_trial(files):
    """Overrides of every type, as typed in the config that they are of."""
    overrides = (
        "train.epochs=3,train.lr_base=1e-3,train.freeze=null,data.data_dir=my images,"
        "data.extra_augment=,train.batch_size=32"
    )
    config = hparams.get_config(files.spec, "folder", overrides)
    inputs = hparams.inputs_of(config)
    os.makedirs(files.folder)
    job = job_of(files, dataset_cfg="folder", overrides=inputs.overrides, strategy="one")
    job.save(files.job)
    assert TrialJob.load(files.job) == job
    assert job.config() == config


def test_a_trials_process_leaves_no_checkout_on_the_path():
    """There its folders would hide other libraries of their names; the package stays importable."""
    folder = os.path.dirname(run_trial.__file__)
    code = (
        f"import sys; sys.path.insert(0, {folder!r}); import run_trial; del sys.path[0]\n"
        "before = list(sys.path); run_trial.import_package()\n"
        "import efficientnetv2.hparams, efficientnetv2.search.trial\n"
        "import importlib.util; print(sys.path == before, importlib.util.find_spec('hparams'))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd="/"
    )
    assert done.stdout.split() == ["True", "None"], done.stderr
