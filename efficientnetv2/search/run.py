"""Library call for searches: `search` works on a study and writes its results."""

import contextlib
import dataclasses
import importlib.util
import json
import os

from efficientnetv2.common.console import show, verbosity
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import as_path, make_local_folder
from efficientnetv2.common.text import install_command
from efficientnetv2.hparams import Config, get_config, inputs_of, nearest, settings_of
from efficientnetv2.search.commands import train_command
from efficientnetv2.search.space import SearchSpace, load_space

_OWN = ("model.model_name", "data.data_dir", "eval.at_end")  # Differ per trial or host.
_SCALES = ("width_coefficient", "depth_coefficient")


class SearchStopped(Exception):
    """Raised after a stop signal, once the trial is saved; the same call resumes the search.

    `result`: the results so far, as `search` returns them.
    """

    def __init__(self, result: dict):
        super().__init__("search stopped")
        self.result = result


def search(
    space: str | SearchSpace,
    config: Config,
    directory: str | os.PathLike,
    *,
    budget: str = "40",
    sampler: str = "tpe",
    seed: int = 0,
    storage: str | None = None,
    strategy: str = "auto",
    tpu: str | None = None,
    verbose: bool = False,
) -> dict:
    """Searches for networks by training many of them briefly; resumes the study in `directory`.

    Each trial is a network of the space, trained in its own process as by `train`. Its reward
    combines the accuracy on the `minival` split, the time of a training step on this device and the
    number of parameters; the `eval` split is never read. The same call in another process adds a
    worker. `--mode=search` makes this call. See docs/search.md.

    Args:
        space: "paper", "cifar", the path of a JSON file, or a `SearchSpace`.
        config: from `get_config`: data and settings of each trial's training. The networks of the
            space replace its model, so that settings implied by a named model do not apply.
        directory: folder of the study, its trials and results.
        budget: number of trials of the whole study ("40"), or how long this call starts new trials
            ("2h", "90m", "30s"). "0" only writes the results.
        sampler: "tpe", "random" or "evolution".
        seed: seed of the sampler, at least 0.
        storage: URL of a database that is shared by workers on several hosts; None: `study.db` in
            `directory`.
        strategy, tpu: as for `train`, but by name only.
        verbose: print trials and results as the command line does.

    Returns:
        "trials": {"complete", "pruned", "fail", "same": number of trials};
        "best": path of the best network's JSON file, for `get_config` or `build_model`;
        "reward": its reward; both are None without a complete trial;
        "pareto": numbers of the trials on the Pareto front of accuracy, step time and parameters;
        "page": path of search.html.

    Raises:
        UserError: one line, for invalid arguments or settings, settings that differ from the
            study's, a storage failure, similar failures of all first trials, or if optuna is
            missing.
        SearchStopped: after SIGTERM or Ctrl-C, once everything is saved; the same call resumes.

    Example:
        config = effnet.get_config(None, "folder", "train.epochs=5", data_dir="photos")
        result = effnet.search("cifar", config, "runs/search", budget="2h", verbose=True)
        model = effnet.build_model(result["best"], num_classes=10)
    """
    directory = as_path(directory, "directory")
    _check_arguments(config, seed, strategy)
    if importlib.util.find_spec("optuna") is None:
        raise UserError(f"--mode=search needs optuna; {install_command('search')}")
    from efficientnetv2.search.study import SAMPLERS, parse_budget
    from efficientnetv2.search.worker import Search, Worker

    limit = parse_budget(str(budget))
    if sampler not in SAMPLERS:
        raise UserError(f"unknown sampler {sampler!r}{nearest(str(sampler), SAMPLERS)}")
    space = space if isinstance(space, SearchSpace) else load_space(str(space))
    config = _trial_config(config)
    settings = Search(space, directory, limit, config, sampler, seed, strategy, tpu)
    with verbosity(verbose), contextlib.closing(_open_study(directory, storage)) as study:
        study.agree(_shared_settings(space, config))
        finished = limit.trials == 0 or Worker(settings, study).run()
        with study.locked():  # Several workers may finish at once.
            result = _write_results(study, settings)
    if not finished:
        raise SearchStopped(result)
    return result


def _check_arguments(config, seed, strategy) -> None:
    """Checks the arguments. Raises: UserError for a wrong type or value."""
    if not isinstance(config, Config) or inputs_of(config) is None:
        raise UserError("config must come from get_config, which knows its overrides")
    if type(seed) is not int or seed < 0:
        raise UserError(f"seed must be a whole number from 0, got {seed!r}")
    if not isinstance(strategy, str):
        raise UserError("strategy must be a name: each trial is a process of its own")


def _trial_config(config: Config) -> Config:
    """Returns the config of each trial's training, with the settings of a network in a JSON file.

    Raises: UserError as `get_config`, or if settings would scale the networks or images have
    several labels.
    """
    inputs = inputs_of(config)
    overrides = {key: v for key, v in inputs.overrides.items() if key != "model.model_name"}
    config = get_config(
        "trial.json", inputs.dataset_cfg, overrides, weights_settings=inputs.weights
    )
    for key in _SCALES:
        if getattr(config.model, key) is not None:
            raise UserError(f"model.{key} would change each network of the space; drop it")
    if config.data.multiclass:
        raise UserError("a search needs one label for each image; drop data.multiclass=True")
    return config


def _open_study(directory: str, storage: str | None):
    """Opens the study of a storage, or of a file in `directory`."""
    from efficientnetv2.search.study import SearchStudy

    make_local_folder(directory, f"cannot make --model_dir={directory}")
    directory = os.path.abspath(directory)
    if storage:
        url, name = storage, os.path.basename(directory)
    else:
        url, name = f"sqlite:///{os.path.join(directory, 'study.db')}", "search"
    return SearchStudy(url, name, os.path.join(directory, "study.lock"))


def _shared_settings(space: SearchSpace, config: Config) -> dict:
    """Returns the settings that all trials of a study share, with JSON-compatible values."""
    settings = {
        key: value
        for key, value in settings_of(config)
        if key not in _OWN and not key.startswith("runtime.")
    }
    settings["--search_space"] = dataclasses.asdict(space)
    return json.loads(json.dumps(settings))


def _write_results(study, settings) -> dict:
    """Writes the page and the networks of a study; prints and returns its best trials."""
    from efficientnetv2.search import results
    from efficientnetv2.search.page import Results, write_results

    space, directory = settings.space, settings.directory
    trials = results.found_in(study)
    files = results.save_best(space, trials, directory)
    commands = [(number, _train_command(file, settings)) for number, file in files.items()]
    best, front = results.ranked(trials), results.pareto(trials)
    page = Results(
        os.path.basename(os.path.abspath(directory)),
        space,
        trials,
        commands,
        results.importance(study, trials),
        results.shares(space, trials),
        results.cost_models(space, trials),
    )
    path = write_results(page, directory)
    if best:
        show(f"best rewards\n{results.table(space, best[: results.BEST])}")
        show(f"Pareto front of accuracy, step time and parameters\n{results.table(space, front)}")
        show("train them:")
        for _, command in commands:
            show(command)
    return {
        "trials": results.count_states(trials),
        "best": files.get(best[0].number) if best else None,
        "reward": best[0].reward if best else None,
        "pareto": [trial.number for trial in front],
        "page": path,
    }


def _train_command(file: str, settings) -> str:
    inputs, model_dir = inputs_of(settings.config), file.removesuffix(".json")
    where = {"strategy": settings.strategy, "tpu": settings.tpu}
    return train_command(file, model_dir, inputs.dataset_cfg, inputs.overrides, **where)
