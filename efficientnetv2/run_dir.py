"""What a `model_dir` holds beside checkpoints: the config and the class names of its run."""

import os

from hparams import Config, UserError, differing_keys, load_config, save_config

CONFIG_FILE, LABELS_FILE = "config.yaml", "labels.txt"
_MAY_DIFFER = ("runtime.", "eval.batch_size", "data.data_dir")  # They do not change the result.


def start_run(model_dir: str, config: Config, class_names: tuple[str, ...]) -> None:
    """Writes config and class names, or checks them against those of the run to resume.

    Raises: UserError naming the keys that differ from the run in `model_dir`.
    """
    os.makedirs(model_dir, exist_ok=True)
    path = os.path.join(model_dir, CONFIG_FILE)
    if os.path.exists(path):
        changed = differing_keys(load_config(path), config)
        changed = [key for key in changed if not key.startswith(_MAY_DIFFER)]
        if changed:
            raise UserError(
                f"{model_dir} holds a run with other values of {', '.join(changed)}; "
                "give another --model_dir, or the same settings to resume"
            )
    save_config(config, path)
    labels = os.path.join(model_dir, LABELS_FILE)
    with open(f"{labels}.part", "w", encoding="utf-8") as file:
        file.writelines(f"{name}\n" for name in class_names)
    os.replace(f"{labels}.part", labels)


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
