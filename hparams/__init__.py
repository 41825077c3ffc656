"""Configuration of runs: typed settings, presets, overrides and stages. Pure Python."""

import dataclasses
import os
from collections.abc import Mapping

import yaml

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import as_path, atomic_write
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

CONFIG_FILE = "config.yaml"  # In the directory of a run.

__all__ = [
    "CONFIG_FILE",
    "Config",
    "ConfigInputs",
    "DataConfig",
    "MODELS",
    "ModelConfig",
    "Stage",
    "dataset_cfg_of",
    "differing_keys",
    "get_config",
    "inputs_of",
    "load_config",
    "make_stages",
    "model_layer",
    "nearest",
    "planned_images",
    "save_config",
    "settings_of",
    "stage_at",
    "stage_table",
    "with_overrides",
    "with_values",
    "with_weights",
]


@dataclasses.dataclass(frozen=True)
class ConfigInputs:
    """Inputs that `get_config` built a config from. `overrides`: {dotted key: typed value}."""

    model_name: str
    dataset_cfg: str
    overrides: dict[str, object]
    weights: dict[str, object]  # Settings that starting weights imply.


def get_config(
    model_name: str | os.PathLike | None = None,
    dataset_cfg: str = "shapes",
    overrides: str | Mapping = "",
    *,
    data_dir: str | os.PathLike | None = None,
    weights_settings: Mapping | None = None,
) -> Config:
    """Builds the config of a run from layers: base, model, data set, weights, overrides, data_dir.

    Later layers win. With `train.ft_init_ckpt`, the fine-tuning defaults come between model and
    data set, unless the data set has its own recipe.

    Args:
        model_name: one of `list_models()`, "keras/NAME" or a JSON file; if None, the model named by
            the overrides, or else efficientnetv2-b0.
        dataset_cfg: "shapes", "folder", "csv", "tfrecord", "tfds:NAME", "imagenet", ...
        overrides: "a.b=c,…", where an item may also be the path of a YAML file, such as the saved
            config of a run; or a mapping {"a.b": c} or {"a": {"b": c}}.
        data_dir: directory of the images, or of TensorFlow Datasets.
        weights_settings: {key: value} implied by weights, see `efficientnetv2.weights`.

    Example:
        config = get_config("efficientnetv2-s", "folder", "train.epochs=20", data_dir="photos")

    Raises: UserError, one line, for an unknown name or key, a wrong type, a value out of range.
    """
    is_text = isinstance(overrides, str)
    assignments = parse_overrides(overrides) if is_text else flatten(overrides)
    if data_dir is not None:
        assignments.append(("data.data_dir", as_path(data_dir, "data_dir")))
    model_name = model_name and as_path(model_name, "model_name")
    named = dict(assignments).get("model.model_name")
    if named is not None and model_name not in (None, named):
        raise UserError(f"model.model_name={named} contradicts --model_name={model_name}; drop one")
    model_name = model_name or named or Config().model.model_name
    return _build(model_name, dataset_cfg, assignments, dict(weights_settings or {}))


def _build(model_name: str, dataset_cfg: str, assignments: list, weights: dict) -> Config:
    layer = dataset_layer(dataset_cfg)
    dataset = flatten(layer)
    given = override(Config(), dataset + assignments)
    model = flatten(model_layer(model_name, given.train.schedule))
    fine_tuning = given.train.ft_init_ckpt is not None and "train" not in layer
    defaults = flatten(FINE_TUNING) if fine_tuning else []
    layers = model + defaults + dataset + list(weights.items()) + assignments
    config = check_config(override(Config(), layers))
    return _with_inputs(config, model_name, dataset_cfg, assignments, weights)


def _with_inputs(config: Config, model_name: str, dataset_cfg: str, assignments, weights) -> Config:
    values = dict(settings_of(config))
    typed = {key: values[key] for key, _ in assignments}
    object.__setattr__(config, "_inputs", ConfigInputs(model_name, dataset_cfg, typed, weights))
    return config


def inputs_of(config: Config) -> ConfigInputs | None:
    """Returns what a config was built from, or None if it was not built by `get_config`."""
    return config.__dict__.get("_inputs")


def with_weights(
    config: Config, weights: str | None = None, settings: Mapping | None = None
) -> Config:
    """Returns the config of a run that starts from weights, rebuilt from its inputs.

    Args:
        weights: value of `train.ft_init_ckpt`, which enables the fine-tuning defaults.
        settings: {key: value} implied by the weights; overrides take precedence.

    A config that was loaded from a file specifies every setting, so that only `train.ft_init_ckpt`
    changes. Raises: UserError as `get_config` does.
    """
    inputs = inputs_of(config)
    given = {"train.ft_init_ckpt": weights} if weights is not None else {}
    if inputs is None:
        return check_config(override(config, list(given.items())))
    assignments = list({**inputs.overrides, **given}.items())
    return _build(inputs.model_name, inputs.dataset_cfg, assignments, dict(settings or {}))


def settings_of(config: Config) -> list[tuple[str, object]]:
    """Returns all settings as (dotted key, value)."""
    return flatten(dataclasses.asdict(config))


def with_overrides(config: Config, overrides: str) -> Config:
    """Returns a copy with `overrides` ("a.b=c,…") on top.

    Raises: UserError as `get_config` does.
    """
    return _with_assignments(config, parse_overrides(overrides))


def differing_keys(config: Config, other: Config) -> list[str]:
    """Returns the dotted keys whose values differ."""
    mine, others = (dict(settings_of(c)) for c in (config, other))
    return [key for key, value in mine.items() if value != others[key]]


def with_values(config: Config, **values) -> Config:
    """Returns a copy with values set by key, with "__" for dots: `train__epochs=3`.

    Raises: UserError as `get_config` does.
    """
    assignments = [(key.replace("__", "."), value) for key, value in values.items()]
    return _with_assignments(config, assignments)


def _with_assignments(config: Config, assignments: list) -> Config:
    changed, inputs = check_config(override(config, assignments)), inputs_of(config)
    if inputs is None:
        return changed
    merged = list({**inputs.overrides, **dict(assignments)}.items())
    return _with_inputs(changed, inputs.model_name, inputs.dataset_cfg, merged, inputs.weights)


def save_config(config: Config, path: str) -> None:
    """Writes all settings to a YAML file atomically; `load_config` returns an equal config."""
    atomic_write(path, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))


def load_config(path: str) -> Config:
    """Reads a config that `save_config` wrote.

    Raises: UserError if the file is missing or contains unknown keys or invalid values.
    """
    return check_config(override(Config(), read_yaml(path)))
