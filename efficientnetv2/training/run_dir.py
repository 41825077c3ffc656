"""The `model_dir` of a run: its config, class names and architecture next to the checkpoints."""

import json
import os
from itertools import zip_longest

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import atomic_write, make_local_folder
from efficientnetv2.hparams import (
    CONFIG_FILE,
    Config,
    differing_keys,
    load_config,
    save_config,
    settings_of,
    with_values,
)
from efficientnetv2.hparams.spec import is_spec_file, load_spec, save_spec

LABELS_FILE, SPEC_FILE = "labels.txt", "architecture.json"
_MAY_DIFFER = (  # They do not change what is trained.
    "runtime.",
    "eval.batch_size",
    "eval.at_end",
    "data.data_dir",
    "data.splits.eval.",
    "train.on_nan",  # Often changed only after a NaN has occurred.
)
_MAY_DIFFER_UNSELECTED = (  # Nor do these, unless evaluations select weights or end the run.
    "eval.every_epochs",
    "data.splits.minival.",
)


def check_run(
    model_dir: str, config: Config, class_names: tuple[str, ...], allow_changes: bool = False
) -> None:
    """Creates `model_dir`; if it holds a run, checks that its settings match these.

    Raises: UserError naming the keys and values, the architecture or the classes that differ from
    the run to resume, or if `model_dir` cannot be created. `allow_changes` lets keys differ.
    """
    _make(model_dir)
    path = os.path.join(model_dir, CONFIG_FILE)
    if not os.path.exists(path):
        return
    saved = load_config(path)
    changed = _changes(saved, config)
    if changed and not allow_changes:
        theirs, ours = (dict(settings_of(c)) for c in (saved, config))
        both = ", ".join(f"{k}={_text(theirs[k])} (now {_text(ours[k])})" for k in changed)
        raise UserError(
            f"{model_dir} holds a run with {both}; give the same settings to resume, "
            "--allow_changes to go on with the new ones, or another --model_dir"
        )
    if "model.model_name" not in changed and is_spec_file(config.model.model_name):
        _check_spec(model_dir, config.model.model_name)
    _, names = open_run(model_dir)
    if names != tuple(class_names):
        pairs = (pair for pair in zip_longest(names, class_names) if len(set(pair)) > 1)
        theirs, ours = next(pairs)
        raise UserError(
            f"{model_dir} holds a run with class {theirs!r} where the data has {ours!r}; "
            "give another --model_dir, or the same data to resume"
        )


def start_run(model_dir: str, config: Config, class_names: tuple[str, ...]) -> None:
    """Writes config, class names and a JSON architecture; call it after `check_run`.

    If what is trained has changed, the previous config is kept next to the new one as
    `config.STEP.yaml`, where STEP is the step up to which it applied.
    """
    _make(model_dir)
    path = os.path.join(model_dir, CONFIG_FILE)
    if os.path.exists(path) and _changes(saved := load_config(path), config):
        from efficientnetv2.training.checkpoint import CheckpointFiles  # Imports TensorFlow.

        step = max(CheckpointFiles(model_dir, keep=1).numbers(), default=0)
        kept = os.path.join(model_dir, f"config.{step}.yaml")
        if not os.path.exists(kept):  # Otherwise nothing was trained with the saved one.
            save_config(saved, kept)
    if is_spec_file(config.model.model_name):
        save_spec(load_spec(config.model.model_name), os.path.join(model_dir, SPEC_FILE))
    labels = os.path.join(model_dir, LABELS_FILE)
    atomic_write(labels, "".join(f"{name}\n" for name in class_names))
    # Last: if the config exists, so do the other files.
    save_config(config, path)


def _make(model_dir: str) -> None:
    make_local_folder(model_dir, f"cannot make --model_dir={model_dir}")


def _changes(saved: Config, config: Config) -> list[str]:
    """Returns the differing keys that change what is trained, or which weights are kept."""
    free = _MAY_DIFFER
    if saved.eval.best_metric is None and config.eval.best_metric is None:
        free += _MAY_DIFFER_UNSELECTED
    return [key for key in differing_keys(saved, config) if not key.startswith(free)]


def _text(value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def open_run(model_dir: str) -> tuple[Config, tuple[str, ...]]:
    """Returns config and class names of a run; a JSON architecture is the run's own copy.

    Raises: UserError if `model_dir` holds no run.
    """
    config = _saved_config(model_dir)
    if is_spec_file(config.model.model_name):
        config = with_values(config, model__model_name=os.path.join(model_dir, SPEC_FILE))
    labels = os.path.join(model_dir, LABELS_FILE)
    try:
        with open(labels, encoding="utf-8") as file:
            names = tuple(line.rstrip("\n") for line in file)
    except OSError as error:
        raise UserError(f"cannot read class names from {labels}: {error.strerror}") from error
    return config, names


def model_name(model_dir: str) -> str:
    """Returns the model name the run was started with. Raises: UserError as `open_run` does."""
    return _saved_config(model_dir).model.model_name


def _saved_config(model_dir: str) -> Config:
    path = os.path.join(model_dir, CONFIG_FILE)
    if not os.path.exists(path):
        raise UserError(f"{model_dir} holds no run ({CONFIG_FILE} is missing); train first")
    return load_config(path)


def _check_spec(model_dir: str, path: str) -> None:
    """Checks that the architecture is that of the run. Raises: UserError if it is not."""
    copy = os.path.join(model_dir, SPEC_FILE)
    if load_spec(copy) != load_spec(path):
        raise UserError(
            f"{path} is not the architecture that {model_dir} was started with, which is in "
            f"{copy}; give another --model_dir, or that file's content to resume"
        )
