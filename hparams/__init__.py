"""Configuration of runs: typed settings, presets, overrides and stages. Pure Python."""

import dataclasses

import yaml

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import atomic_write
from efficientnetv2.hparams.config import Config, DataConfig, ModelConfig, check_config
from efficientnetv2.hparams.dataset_presets import (
    FINE_TUNING,
    dataset_cfg_of,
    dataset_layer,
    planned_images,
)
from efficientnetv2.hparams.models import MODELS, model_layer
from efficientnetv2.hparams.overrides import flatten, nearest, override, parse_overrides, read_yaml
from efficientnetv2.hparams.stages import Stage, make_stages, stage_at, stage_table

__all__ = [
    "Config",
    "DataConfig",
    "MODELS",
    "ModelConfig",
    "Stage",
    "dataset_cfg_of",
    "differing_keys",
    "get_config",
    "load_config",
    "make_stages",
    "model_layer",
    "nearest",
    "planned_images",
    "save_config",
    "stage_at",
    "stage_table",
    "with_overrides",
    "with_values",
]


def get_config(
    model_name: str | None,
    dataset_cfg: str,
    overrides: str = "",
    *,
    data_dir: str | None = None,
    weights_settings: dict | None = None,
) -> Config:
    """Builds the config of a run; later wins: base, model, data set, weights, overrides, data_dir.

    With `train.ft_init_ckpt` the defaults of fine-tuning come between model and data set, unless
    the data set has a recipe of its own.

    `overrides` is "a.b=c,…", where an item may also be the path of a YAML file, such as the saved
    config of a run. Without a `model_name` the overrides may name the model, else it is B0.
    `weights_settings` are keys and values that weights bring along, see `efficientnetv2.weights`.

    Raises: UserError, one line, for an unknown name or key, a wrong type, a value out of range.
    """
    assignments = parse_overrides(overrides)
    if data_dir is not None:
        assignments.append(("data.data_dir", data_dir))
    layer = dataset_layer(dataset_cfg)
    dataset = flatten(layer)
    named = dict(assignments).get("model.model_name")
    model_name = model_name or named or Config().model.model_name
    if named not in (None, model_name):
        raise UserError(f"model.model_name={named} contradicts --model_name={model_name}; drop one")
    given = override(Config(), dataset + assignments)
    model = flatten(model_layer(model_name, given.train.schedule))
    fine_tuning = given.train.ft_init_ckpt is not None and "train" not in layer
    defaults = flatten(FINE_TUNING) if fine_tuning else []
    brought = list((weights_settings or {}).items())
    return check_config(override(Config(), model + defaults + dataset + brought + assignments))


def with_overrides(config: Config, overrides: str) -> Config:
    """Returns a copy with `overrides` ("a.b=c,…") on top.

    Raises: UserError as `get_config` does.
    """
    return check_config(override(config, parse_overrides(overrides)))


def differing_keys(config: Config, other: Config) -> list[str]:
    """Returns the dotted keys whose values differ."""
    mine, others = (dict(flatten(dataclasses.asdict(c))) for c in (config, other))
    return [key for key, value in mine.items() if value != others[key]]


def with_values(config: Config, **values) -> Config:
    """Returns a copy with values set by key, "__" for the dots: `train__epochs=3`.

    Raises: UserError as `get_config` does.
    """
    return check_config(override(config, [(k.replace("__", "."), v) for k, v in values.items()]))


def save_config(config: Config, path: str) -> None:
    """Writes all settings as YAML, whole or not at all; `load_config` gives an equal config."""
    atomic_write(path, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))


def load_config(path: str) -> Config:
    """Reads a config that `save_config` wrote.

    Raises: UserError if the file is missing, or holds unknown keys or bad values.
    """
    return check_config(override(Config(), read_yaml(path)))
