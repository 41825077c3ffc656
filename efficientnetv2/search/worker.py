"""Search worker: runs trials of a study until its budget is spent. Does not need TensorFlow."""

import contextlib
import dataclasses
import functools
import json
import os
import signal
import threading
import time
from collections.abc import Callable

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from efficientnetv2.common.console import show
from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams import Config, inputs_of
from efficientnetv2.hparams.spec import save_spec
from efficientnetv2.search.cost_model import reward
from efficientnetv2.search.measure import HostTurns
from efficientnetv2.search.space import SearchSpace, baseline_spec, draw, spec_at
from efficientnetv2.search.study import (
    STORAGE_ERRORS,
    Budget,
    Progress,
    SearchStudy,
    in_short,
    reason_of,
    suggest,
    twins,
)
from efficientnetv2.search.trial import (
    HOST,
    POLL_SECONDS,
    TrialFiles,
    TrialJob,
    kind_of,
    run_process,
    trial_command,
)

FIRST_FAILURES = 3  # Similar failures, without any other outcome, that end the search.


@dataclasses.dataclass(frozen=True)
class Search:
    """Settings of a worker.

    `config` (from `get_config`), `strategy` and `tpu` are used to train each trial; the model of
    `config` is replaced.
    """

    space: SearchSpace
    directory: str
    budget: Budget
    config: Config
    sampler: str = "tpe"
    seed: int = 0
    strategy: str = "auto"
    tpu: str | None = None


class Worker:
    """Runs trials of a study.

    Args:
        command: (path of the job) -> the command of a trial's process; None: `trial_command`.
    """

    def __init__(
        self,
        search: Search,
        study: SearchStudy,
        command: Callable[[str], list[str]] | None = None,
    ):
        self.search, self.study, self._command = search, study, command or trial_command
        self._begun = time.monotonic()
        self._signals, self._awaits = 0, False
        self._trials = os.path.join(search.directory, "trials")
        os.makedirs(self._trials, exist_ok=True)
        spec = os.path.join(search.directory, "baseline.json")
        save_spec(dataclasses.replace(baseline_spec(search.space), name="baseline"), spec)
        self._baseline = (spec, os.path.join(search.directory, f"baseline-step-{HOST}.json"))
        self._turns = HostTurns(self.stopping)
        self.progress = Progress(search.budget, study)

    def stopping(self) -> bool:
        """Returns whether a stop signal was received."""
        return self._signals > 0

    def run(self) -> bool:
        """Runs trials until the budget is spent; returns False if stopped early by a signal.

        Raises: UserError if the first trials all fail for similar reasons.
        """
        before = {}
        if threading.current_thread() is threading.main_thread():
            before = {n: signal.signal(n, self._asked) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            while not self.stopping():
                trial = self._next()
                if trial is not None:
                    self._work(trial)
                elif not self._await_others():
                    break
        except STORAGE_ERRORS as error:
            raise UserError(
                f"the study's storage failed: {in_short(error)}; the same command resumes it"
            ) from error
        finally:
            self._turns.close()
            for number, handler in before.items():
                signal.signal(number, handler)
        return not self.stopping()

    def _asked(self, number: int, frame) -> None:
        self._signals += 1
        if self._signals == 1:
            again = "; once more: at once" if number == signal.SIGINT else ""
            text = f"\n{signal.Signals(number).name}: saving the trial{again}\n"
            os.write(2, text.encode())  # Not print, which the signal may have interrupted.
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    def _next(self):
        """Returns the trial to work on, with its values; None if the budget is spent."""
        with self.study.locked():
            self.study.fail_lost()
            if not self._has_budget():
                return None
            trial = self.study.ask(self.search.sampler, self.search.seed)
            self.study.storage.record_heartbeat(trial._trial_id)
            draw(self.search.space, functools.partial(suggest, trial))
            if "first" not in trial.user_attrs:
                trial.set_user_attr("first", trial.number)
            return trial

    def _has_budget(self) -> bool:
        trials, budget = self.study.trials(), self.search.budget
        if budget.seconds is not None:
            return time.monotonic() - self._begun < budget.seconds
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        return waiting or len(trials) < budget.trials

    def _await_others(self) -> bool:
        """Waits briefly for trials of other workers, which may still be lost.

        Returns False, without waiting, if there are none or if the budget is a time, which is
        spent by then.
        """
        running = sum(trial.state == TrialState.RUNNING for trial in self.study.trials())
        if not running or self.search.budget.seconds is not None:
            return False
        if not self._awaits:
            show(f"waiting for {running} under way elsewhere, or for their heartbeats to end")
        self._awaits = True
        time.sleep(POLL_SECONDS)
        return True

    def _work(self, trial) -> None:
        """Finishes a trial, or puts it back if a signal asks to stop."""
        # A trial that was considered lost is no longer ours: another worker resumes it.
        with self.study.heartbeat(trial), contextlib.suppress(UpdateFinishedTrialError):
            known = self._await_twin(trial)
            if self.stopping():
                return self.study.put_back(trial)
            if known is not None:
                self._take_over(trial, known)
            else:
                self._train(trial)
        if not self.stopping():
            self.progress.tell(trial.number)
            self._check_failures()

    def _await_twin(self, trial):
        """Returns a finished trial with the same values, or None; waits for one that is running.

        Which of several workers trains is decided under the lock.
        """
        while not self.stopping():
            with self.study.locked():
                self.study.fail_lost()
                others = twins(self.study.trials(), trial)
                finished = [t for t in others if t.state.is_finished()]
                if finished:
                    return finished[0]
                waits = any(t.state == TrialState.RUNNING for t in others)
                if waits != trial.user_attrs.get("waits", False):
                    trial.set_user_attr("waits", waits)
                if not waits:
                    return None
            time.sleep(5 * POLL_SECONDS)
        return None

    def _take_over(self, trial, known) -> None:
        """Reports the result of a trial with the same values."""
        attrs = {**known.user_attrs, "first": trial.number, "same_as": known.number}
        for name in ("continues", "lives", "waits"):
            attrs.pop(name, None)
        if known.state == TrialState.FAIL:
            attrs["reason"] = reason_of(known)
        reported = self.study.reported(trial)
        for step, value in known.intermediate_values.items():
            if step not in reported:
                trial.report(value, step)
        value = known.value if known.state == TrialState.COMPLETE else None
        self.study.tell(trial, known.state, value, attrs)

    def _train(self, trial) -> None:
        first = trial.user_attrs["first"]
        files = TrialFiles(self._trials, first)
        name = f"{self.search.space.name}-{first:04d}"
        save_spec(spec_at(self.search.space, trial.params, name), files.spec)
        figures, latest = {}, []

        def evaluated(records: list[dict]) -> bool:
            if not figures:
                figures.update(_costs(files.step, self._baseline[1]))
            reported = self.study.reported(trial)
            for number, record in enumerate(records, 1):
                latest[:] = [record["top1"], reward(record["top1"], **figures)]
                if number not in reported:
                    trial.report(latest[1], number)
            ends = records[-1]["step"] >= _measured(files.step)["run_steps"]
            return not ends and trial.should_prune()

        self._save_job(files)
        command = self._command(files.job)
        outcome = run_process(command, files, self._turns, self.stopping, evaluated)
        sizes = ("image_size", "batch_size") if figures else ()
        attrs = figures | {name: _measured(files.step)[name] for name in sizes}
        if latest:
            attrs["accuracy"] = latest[0]
        if outcome.kind == "stopped":
            return self.study.put_back(trial)
        if outcome.kind == "complete":
            self.study.tell(trial, TrialState.COMPLETE, latest[1], attrs)
        elif outcome.kind == "pruned":
            self.study.tell(trial, TrialState.PRUNED, None, attrs)
        else:
            attrs["reason"] = outcome.reason
            self.study.tell(trial, TrialState.FAIL, None, attrs)
        files.remove_weights()

    def _save_job(self, files: TrialFiles) -> None:
        search, inputs = self.search, inputs_of(self.search.config)
        overrides = {k: v for k, v in inputs.overrides.items() if k != "model.model_name"}
        job = TrialJob(
            spec=files.spec,
            step_file=files.step,
            baseline=self._baseline[0],
            baseline_step_file=self._baseline[1],
            model_dir=files.folder,
            dataset_cfg=inputs.dataset_cfg,
            overrides=overrides | {"eval.at_end": False},  # Test images are never read.
            weights=inputs.weights,
            strategy=search.strategy,
            tpu=search.tpu,
        )
        os.makedirs(files.folder, exist_ok=True)
        job.save(files.job)

    def _check_failures(self) -> None:
        """Checks that the search can succeed.

        Raises: UserError if at least `FIRST_FAILURES` trials have ended, all failed, and the last
        ones for similar reasons.
        """
        finished = [t for t in self.study.trials() if t.state.is_finished()]
        own = [t for t in finished if "same_as" not in t.user_attrs]
        if len(own) < FIRST_FAILURES or any(t.state != TrialState.FAIL for t in own):
            return
        reasons = [reason_of(trial) for trial in own[-FIRST_FAILURES:]]
        if len({kind_of(reason) for reason in reasons}) == 1:
            log = TrialFiles(self._trials, own[-1].user_attrs["first"]).log
            raise UserError(
                f"the first {len(own)} trials failed, the last one {reasons[-1]}; {log}"
            )


def _costs(step_file: str, baseline_file: str) -> dict:
    """Returns the arguments of `reward` other than the accuracy."""
    return {
        prefix + name: _measured(path)[name]
        for prefix, path in (("", step_file), ("baseline_", baseline_file))
        for name in ("step_seconds", "parameters")
    }


def _measured(path: str) -> dict:
    with open(path, encoding="utf-8") as file:
        return json.load(file)
