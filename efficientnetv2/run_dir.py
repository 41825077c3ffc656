"""What a `model_dir` holds beside checkpoints: the config and the class names of its run."""

import os
from itertools import zip_longest

from hparams import Config, UserError, differing_keys, load_config, save_config

CONFIG_FILE, LABELS_FILE = "config.yaml", "labels.txt"
_MAY_DIFFER = (  # They do not change what is trained.
    "runtime.",
    "eval.batch_size",
    "eval.every_epochs",
    "data.data_dir",
    "data.splits.minival.",
    "data.splits.eval.",
)


def start_run(model_dir: str, config: Config, class_names: tuple[str, ...]) -> None:
    """Writes config and class names, or checks them against those of the run to resume.

    Raises: UserError naming the keys or classes that differ from the run in `model_dir`, or if
    `model_dir` cannot be made.
    """
    try:
        os.makedirs(model_dir, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make --model_dir={model_dir}: {error.strerror}") from error
    path = os.path.join(model_dir, CONFIG_FILE)
    if os.path.exists(path):
        changed = differing_keys(load_config(path), config)
        changed = [key for key in changed if not key.startswith(_MAY_DIFFER)]
        if changed:
            raise UserError(
                f"{model_dir} holds a run with other values of {', '.join(changed)}; "
                "give another --model_dir, or the same settings to resume"
            )
        _, names = open_run(model_dir)
        if names != tuple(class_names):
            pairs = (pair for pair in zip_longest(names, class_names) if len(set(pair)) > 1)
            theirs, ours = next(pairs)
            raise UserError(
                f"{model_dir} holds a run with class {theirs!r} where the data has {ours!r}; "
                "give another --model_dir, or the same data to resume"
            )
    labels = os.path.join(model_dir, LABELS_FILE)
    with open(f"{labels}.part", "w", encoding="utf-8") as file:
        file.writelines(f"{name}\n" for name in class_names)
    os.replace(f"{labels}.part", labels)
    save_config(config, path)  # Last: where there is a config, there is all of it.


def open_run(model_dir: str) -> tuple[Config, tuple[str, ...]]:
    """Returns config and class names of a run.

    Raises: UserError if `model_dir` holds none.
    """
    path = os.path.join(model_dir, CONFIG_FILE)
    if not os.path.exists(path):
        raise UserError(f"{model_dir} holds no run ({CONFIG_FILE} is missing); train first")
    labels = os.path.join(model_dir, LABELS_FILE)
    try:
        with open(labels, encoding="utf-8") as file:
            names = tuple(line.rstrip("\n") for line in file)
    except OSError as error:
        raise UserError(f"cannot read class names from {labels}: {error.strerror}") from error
    return load_config(path), names
