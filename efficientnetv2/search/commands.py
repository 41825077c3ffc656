"""Command lines that train a network, as search and scaling print them."""

import shlex
from collections.abc import Mapping

import yaml

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import atomic_write
from efficientnetv2.common.text import program
from efficientnetv2.hparams import Config, settings_of
from efficientnetv2.hparams.overrides import override, parse_overrides


def train_command(
    spec_file: str,
    model_dir: str,
    dataset_cfg: str,
    overrides: Mapping,
    *,
    strategy: str = "auto",
    tpu: str | None = None,
) -> str:
    """Returns the command that trains the network in a JSON file.

    Args:
        spec_file: JSON file of the network. Overrides that `--hparam_str` cannot express, such as
            a value with a comma, are written next to it as YAML.
        model_dir, dataset_cfg, strategy, tpu: flags of the command.
        overrides: {dotted key: value}, as `inputs_of(config).overrides`.

    Raises: UserError if the YAML file cannot be written.
    """
    settings = {key: value for key, value in overrides.items() if key != "model.model_name"}
    flags = {
        "mode": "traineval",
        "model_name": spec_file,
        "model_dir": model_dir,
        "strategy": strategy if strategy != "auto" else None,
        "tpu": tpu,
        "dataset_cfg": dataset_cfg,
        "data_dir": settings.pop("data.data_dir", None),
        "hparam_str": _hparam_str(settings, f"{spec_file.removesuffix('.json')}.yaml"),
    }
    return shlex.join(
        [*program(), *(f"--{name}={value}" for name, value in flags.items() if value)]
    )


def _hparam_str(settings: Mapping, yaml_file: str) -> str:
    """Returns settings as items of `--hparam_str`, or the path of a YAML file with them."""
    text = ",".join(
        f"{key}={'null' if value is None else value}" for key, value in settings.items()
    )
    if _is_parsed_as(text, settings):
        return text
    atomic_write(yaml_file, yaml.safe_dump(dict(settings), sort_keys=False))
    return yaml_file


def _is_parsed_as(text: str, settings: Mapping) -> bool:
    try:
        values = dict(settings_of(override(Config(), parse_overrides(text))))
    except UserError:
        return False
    return all(values[key] == value for key, value in settings.items())
