"""Mode search: finds networks for one's own data, device and budget."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import sys

from absl import flags

from efficientnetv2 import hparams
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.tf_import import import_tensorflow
from efficientnetv2.hparams.overrides import flatten
from modes.common import needed, report
from modes.training import STOPPED

FLAGS = flags.FLAGS
_OWN = ("model.model_name", "data.data_dir", "eval.at_end")  # Of each trial; of each host.
_SCALES = ("width_coefficient", "depth_coefficient")


def search() -> None:
    """Works on the study in --model_dir until --search_budget is spent; then writes its results."""
    needed("model_dir")
    needed("search_space")
    if FLAGS.model_name:
        raise UserError("--model_name is not for --mode=search, which proposes networks; drop it")
    if importlib.util.find_spec("optuna") is None:
        raise UserError("--mode=search needs optuna; pip install -r requirements-search.txt")
    from efficientnetv2.search.space import load_space
    from efficientnetv2.search.study import parse_budget
    from efficientnetv2.search.worker import Search, Worker

    budget = parse_budget(FLAGS.search_budget)
    space = load_space(FLAGS.search_space)
    config = _config()
    with contextlib.closing(_open_study()) as study:
        study.agree(_settings(space, config))
        finished = True
        if budget.trials != 0:
            job = Search(
                space,
                FLAGS.model_dir,
                budget,
                FLAGS.search_sampler,
                FLAGS.search_seed,
                _trial_flags(),
            )
            finished = Worker(job, study).run()
        import_tensorflow()  # What draws and writes pages is beside the network.
        with study.locked():  # Several workers may end at once.
            _write_results(study, space)
    if not finished:
        print("stopped; the same command goes on from there", file=sys.stderr)
        sys.exit(STOPPED)


def _write_results(study, space) -> None:
    """Prints the best trials and how to train them; writes the page and the networks."""
    from efficientnetv2.search import results
    from efficientnetv2.search.page import Results, write_results

    found = results.found_in(study)
    files = results.save_best(space, found, FLAGS.model_dir)
    flags_given = _trial_flags(ends=True)
    commands = [(n, results.train_command(file, flags_given)) for n, file in files.items()]
    best, front = results.ranked(found), results.pareto(found)
    models = results.cost_models(space, found)
    path = write_results(
        Results(
            os.path.basename(os.path.abspath(FLAGS.model_dir)),
            space,
            found,
            commands,
            results.importance(study, found),
            results.shares(space, found),
            models,
        ),
        FLAGS.model_dir,
    )
    if best:
        print(f"best rewards\n{results.table(space, best[: results.BEST])}")
        print(f"Pareto front of accuracy, step time and parameters\n{results.table(space, front)}")
        print("train them:")
        for _, command in commands:
            print(command)
    values = {
        "trials": results.count_states(found),
        "best": files.get(best[0].number) if best else None,
        "reward": best[0].reward if best else None,
        "pareto": [one.number for one in front],
        "page": path,
    }
    report(values)


def _open_study():
    """The study of --search_storage, or of a file in --model_dir."""
    from efficientnetv2.search.study import SearchStudy

    directory = os.path.abspath(FLAGS.model_dir)
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make --model_dir={FLAGS.model_dir}: {error.strerror}") from error
    if FLAGS.search_storage:
        url, name = FLAGS.search_storage, os.path.basename(directory)
    else:
        url, name = f"sqlite:///{os.path.join(directory, 'study.db')}", "search"
    return SearchStudy(url, name, os.path.join(directory, "study.lock"))


def _config() -> hparams.Config:
    """What every trial is trained with, whatever its network.

    Raises: UserError as `hparams.get_config`, or where the settings would scale the networks.
    """
    config = hparams.get_config(
        "trial.json", FLAGS.dataset_cfg or "shapes", FLAGS.hparam_str, data_dir=FLAGS.data_dir
    )
    for key in _SCALES:
        if getattr(config.model, key) is not None:
            raise UserError(f"model.{key} would change each network of the space; drop it")
    if config.data.multiclass:
        raise UserError("a search needs one label for each image; drop data.multiclass=True")
    return config


def _settings(space, config: hparams.Config) -> dict:
    """What the trials of a study have in common: dotted keys and values, as JSON has them."""
    settings = {
        key: value
        for key, value in flatten(dataclasses.asdict(config))
        if key not in _OWN and not key.startswith("runtime.")
    }
    settings["--search_space"] = dataclasses.asdict(space)
    return json.loads(json.dumps(settings))


def _trial_flags(ends: bool = False) -> tuple[str, ...]:
    """The flags of main.py that each trial is trained with, apart from its own.

    The split `eval`, the test images, is not looked at unless `ends`.
    """
    overrides = [FLAGS.hparam_str] if FLAGS.hparam_str else []
    given = {
        "dataset_cfg": FLAGS.dataset_cfg,
        "data_dir": FLAGS.data_dir,
        "hparam_str": ",".join([*overrides, *([] if ends else ["eval.at_end=false"])]),
        "strategy": FLAGS.strategy if FLAGS["strategy"].present else None,
        "tpu": FLAGS.tpu,
        "data_service": FLAGS.data_service,
    }
    return tuple(f"--{name}={value}" for name, value in given.items() if value)
