"""Study shared by workers: Optuna storage, samplers, heartbeats, locks, budget and progress.

A trial is an attempt at a point of the space. If its worker is lost, the trial is marked as failed
once its heartbeat is too old, and replaced by a new attempt that resumes in the same folder: only
the newer of the two counts. User attributes of a trial:
`first`: the number of the first attempt, which names the folder; `continues`: the attempt that this
one replaces; `lives`: attempts so far; `reason`: why it failed; `same_as`: the trial whose result
it shares; `waits`: whether it waits for a trial with equal values; and the figures, see `FIGURES`.

Workers of a study are synchronized by a locked file on one host, and by a lock in PostgreSQL across
hosts. Other database servers have different locks, which are not used.
"""

import contextlib
import dataclasses
import fcntl
import os
import re
import threading
import time
import warnings
from collections.abc import Iterator, Sequence

import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from efficientnetv2.common.console import show
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.text import duration, one_line

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_TAKE = (
    "SET LOCAL lock_timeout = '60s'",
    "SELECT pg_advisory_xact_lock(hashtext('efficientnetv2-search'))",
)
STORAGE_ERRORS = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
LIVES = 2  # Attempts: a trial whose worker was lost is retried once.
FIGURES = (
    "accuracy",
    "step_seconds",
    "parameters",
    "baseline_step_seconds",
    "baseline_parameters",
    "image_size",
    "batch_size",
)
STARTUP_TRIALS = 5  # Trials that finish before any is pruned.
WARM_EVALUATIONS = 2  # Evaluations of a trial, of which the last may prune it.
_POPULATION = 10
SAMPLERS = {
    "tpe": lambda seed: TPESampler(seed=seed),  # Always multivariate in Optuna 5.
    "random": lambda seed: RandomSampler(seed=seed),
    "evolution": lambda seed: NSGAIISampler(population_size=_POPULATION, seed=seed),
}
_PATIENT = {"connect_args": {"timeout": 60}}  # Seconds that SQLite waits for a lock.
_HEARTBEAT = "EFFICIENTNETV2_SEARCH_HEARTBEAT"  # Seconds between two heartbeats.


@dataclasses.dataclass(frozen=True)
class Budget:
    """Budget of a search: trials of the whole study, or seconds of this worker."""

    trials: int | None = None
    seconds: float | None = None


def parse_budget(text: str) -> Budget:
    """Parses "40" (trials), "2h", "90m" or "30s". Raises: UserError for anything else."""
    found = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)([hms])", text.strip())
    if not found:
        raise UserError(f"--search_budget must be trials or a time, 40 or 2h or 90m, got {text!r}")
    if found[1]:
        return Budget(trials=int(found[1]))
    return Budget(seconds=float(found[2]) * _UNITS[found[3]])


class StudyLock:
    """Lock of a study, held by one worker at a time.

    Args:
        file: lock file on this host, created if it is missing.
        url: URL of the database, as for SQLAlchemy.

    Raises: ImportError or SQLAlchemyError if there is no driver for the database.
    """

    def __init__(self, file: str, url: str):
        self._file = file
        # Without a pool, the end of a connection always releases its lock.
        self._engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Waits for the lock, and holds it inside the block.

        Raises: SQLAlchemyError if the database fails, or another worker holds its lock for a
        minute.
        """
        with open(self._file, "a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with self._held_in_database():
                yield

    @contextlib.contextmanager
    def _held_in_database(self) -> Iterator[None]:
        if self._engine.dialect.name != "postgresql":
            yield
            return
        with self._engine.connect() as connection:
            for statement in _TAKE:
                connection.execute(sqlalchemy.text(statement))
            yield


class SearchStudy:
    """An open study and its storage; `lock_file` is on this host.

    Raises: UserError if the storage cannot be opened.
    """

    def __init__(self, url: str, name: str, lock_file: str):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        seconds = int(os.environ.get(_HEARTBEAT, "30"))
        sqlite = url.startswith("sqlite")
        with _told(url):
            self._lock = StudyLock(lock_file, url)
        with _told(url), self.locked(), _quiet():
            self.storage = optuna.storages.RDBStorage(
                url,
                # Replaces connections that the server has closed.
                engine_kwargs=_PATIENT if sqlite else {"pool_pre_ping": True},
                heartbeat_interval=seconds,
                grace_period=4 * seconds,
                heartbeat_stale_trial_callback=_try_again,
            )
            self.study = optuna.create_study(
                storage=self.storage,
                study_name=name,
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS, WARM_EVALUATIONS),
            )

    def close(self) -> None:
        """Closes the connections."""
        self.storage.remove_session()
        self.storage.engine.dispose()

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Returns a context in which no other worker counts trials or takes one."""
        return self._lock.held()

    def trials(self) -> list[FrozenTrial]:
        """Returns the attempts that have not been replaced, by number."""
        every = self.study.get_trials(deepcopy=False)
        replaced = {trial.user_attrs.get("continues") for trial in every}
        return [trial for trial in every if trial.number not in replaced]

    def agree(self, settings: dict) -> None:
        """Stores the settings of a new study; checks them against those of an existing one.

        Raises: UserError naming the first key that differs from the stored settings.
        """
        with self.locked():
            begun = self.study.user_attrs.get("settings")
            if begun is None:
                self.study.set_user_attr("settings", settings)
                return
        for key in {**begun, **settings}:
            if begun.get(key) != settings.get(key):
                raise UserError(
                    f"the study was begun with {key}={begun.get(key)} (now {settings.get(key)}); "
                    "give the same to go on, or another --model_dir"
                )

    def fail_lost(self) -> None:
        """Marks trials whose workers are gone as failed, and queues their next attempts."""
        with _quiet():
            optuna.storages.fail_stale_trials(self.study)

    def ask(self, sampler: str, seed: int) -> optuna.Trial:
        """Takes the next trial, a queued or a new one. Must be called with the lock held.

        The sampler is seeded by the seed and the number of attempts so far.
        """
        number = len(self.study.get_trials(deepcopy=False))
        self.study.sampler = SAMPLERS[sampler]((seed * 1_000_003 + number) % 2**31)
        with _quiet():
            return self.study.ask()

    @contextlib.contextmanager
    def heartbeat(self, trial: optuna.Trial) -> Iterator[None]:
        """Sends heartbeats inside the block, to show others that the trial's worker is alive."""
        over = threading.Event()

        def beat():
            while not over.wait(self.storage.get_heartbeat_interval()):
                with contextlib.suppress(optuna.exceptions.StorageInternalError):
                    self.storage.record_heartbeat(trial._trial_id)

        self.storage.record_heartbeat(trial._trial_id)
        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def reported(self, trial: optuna.Trial) -> set[int]:
        """Returns the numbers of the reported evaluations, including those of earlier workers."""
        [found] = [one for one in self.trials() if one.number == trial.number] or [None]
        return set(found.intermediate_values) if found is not None else set()

    def put_back(self, trial: optuna.Trial) -> None:
        """Queues the trial for a worker that resumes it."""
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def tell(self, trial: optuna.Trial, state: TrialState, value: float | None, attrs: dict):
        """Finishes a trial; one that was considered lost in the meantime is not changed."""
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            for name, content in attrs.items():
                trial.set_user_attr(name, content)
            self.study.tell(trial, value, state, skip_if_finished=True)


def _try_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queues the next attempt at a lost trial, unless it has had `LIVES` attempts."""
    lives = trial.user_attrs.get("lives", 1)
    if lives >= LIVES:
        return
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={
                "first": trial.user_attrs.get("first", trial.number),
                "continues": trial.number,
                "lives": lives + 1,
            },
            system_attrs=trial.system_attrs,
        )
    )


def reason_of(trial: FrozenTrial) -> str:
    """Returns why a trial failed."""
    return trial.user_attrs.get("reason", f"lost: its workers ended, {LIVES} times")


def twins(trials: Sequence[FrozenTrial], one: optuna.Trial) -> list[FrozenTrial]:
    """Returns the other trials with the same values that train or have trained themselves."""
    others = [trial for trial in trials if trial.number != one.number]
    return [
        trial
        for trial in others
        if trial.params == one.params
        and "same_as" not in trial.user_attrs
        and not trial.user_attrs.get("waits")
    ]


def suggest(trial: optuna.Trial, name: str, choices: tuple):
    """Draws one of the choices of a parameter; evenly spaced integers are treated as ordered."""
    steps = {b - a for a, b in zip(choices, choices[1:])} if _whole(choices) else ()
    if len(choices) > 2 and len(steps) == 1 and min(steps) > 0:
        return trial.suggest_int(name, choices[0], choices[-1], step=min(steps))
    return trial.suggest_categorical(name, choices)


def _whole(choices: tuple) -> bool:
    return all(type(choice) is int for choice in choices)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses warnings about heartbeats: that they are experimental, and that ask-and-tell does
    not send them, which `SearchStudy.heartbeat` does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Heartbeat of storage")
        yield


def in_short(error: Exception) -> str:
    """Returns the error message of a storage in one line."""
    return one_line(str(error.__cause__ or error))


@contextlib.contextmanager
def _told(url: str) -> Iterator[None]:
    """Converts errors of a storage to a one-line UserError."""
    try:
        yield
    except (ImportError, *STORAGE_ERRORS) as error:
        shown = re.sub(r":[^:@/]*@", ":***@", url)  # Without the password.
        raise UserError(f"cannot open --search_storage={shown}: {in_short(error)}") from error


class Progress:
    """Prints the progress of a search."""

    def __init__(self, budget: Budget, study: SearchStudy):
        self.budget, self.study = budget, study
        self._begun = time.monotonic()
        self._before = sum(trial.state.is_finished() for trial in study.trials())

    def tell(self, number: int) -> None:
        """Prints a line for a trial that has ended."""
        trials = self.study.trials()
        [trial] = [one for one in trials if one.number == number] or [None]
        if trial is None or not trial.state.is_finished():  # It is resumed, here or elsewhere.
            return
        finished = [one for one in trials if one.state.is_finished()]
        total = f"/{self.budget.trials}" if self.budget.trials is not None else ""
        parts = [f"{len(finished)}{total}", f"trial {trial.number}", ending(trial)]
        complete = [one for one in finished if one.state == TrialState.COMPLETE]
        if complete:
            best = max(complete, key=lambda one: one.value)
            parts.append(f"best {best.value:.4f} (trial {best.number})")
        parts.append(f"left {duration(self._left(len(finished)))}")
        show("  ".join(parts))

    def _left(self, finished: int) -> float:
        """Estimates the seconds until the budget is spent, at the pace since this worker began."""
        elapsed = time.monotonic() - self._begun
        if self.budget.seconds is not None:
            return max(0.0, self.budget.seconds - elapsed)
        here = max(1, finished - self._before)
        return max(0, self.budget.trials - finished) * elapsed / here


def ending(trial: FrozenTrial) -> str:
    """Describes how a finished trial ended, with its figures."""
    known = trial.user_attrs
    if trial.state == TrialState.FAIL:
        return f"failed  {reason_of(trial)}"
    word = "reward" if trial.state == TrialState.COMPLETE else "pruned at reward"
    parts = [f"{word} {trial.value:.4f}"] if trial.value is not None else [word]
    if "accuracy" in known:
        parts.append(f"top-1 {known['accuracy']:.4f}")
    if "step_seconds" in known:
        parts.append(f"step {1000 * known['step_seconds']:.1f} ms")
        parts.append(f"{known['parameters'] / 1e6:.2f} M parameters")
    if "same_as" in known:
        parts.append(f"the same as trial {known['same_as']}")
    return "  ".join(parts)
