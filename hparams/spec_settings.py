"""The network that the settings of a run describe."""

import dataclasses

from hparams.architecture_tables import get_spec
from hparams.architectures import ModelSpec
from hparams.config import ModelConfig
from hparams.spec_files import check_spec


def spec_from_config(model_config: ModelConfig) -> ModelSpec:
    """Returns the specification of a `ModelConfig`: the named one with its overrides.

    A setting at the default of `ModelConfig` leaves what the specification, such as a JSON file,
    says; but dropout is always the config's, which raises it from stage to stage.
    Raises: UserError for an unknown name, or settings that do not go together.
    """
    spec = get_spec(model_config.model_name)
    given = dict(given_settings(model_config).values())
    spec = dataclasses.replace(spec, dropout_rate=model_config.dropout_rate, **given)
    return check_spec(spec, model_config.model_name)


def given_settings(model: ModelConfig) -> dict[str, tuple[str, object]]:
    """{key: (field of `ModelSpec`, value)} of the settings that are not the config's defaults."""
    defaults = _settings(ModelConfig())
    return {key: pair for key, pair in _settings(model).items() if pair != defaults[key]}


def _settings(model: ModelConfig) -> dict[str, tuple[str, object]]:
    """{key: (field of `ModelSpec`, value)}."""
    return {
        "width_coefficient": ("width_coefficient", model.width_coefficient),
        "depth_coefficient": ("depth_coefficient", model.depth_coefficient),
        "stem_stride": ("stem_stride", model.stem_stride),
        "output_stride": ("output_stride", model.output_stride),
        "normalization": ("normalization", model.normalization),
        "padding": ("padding", model.padding),
        "act_fn": ("activation", model.act_fn),
        "bn_type": ("norm", "group" if model.bn_type == "gn" else "batch"),
        "gn_groups": ("gn_groups", model.gn_groups),
        "bn_momentum": ("bn_momentum", model.bn_momentum),
        "bn_epsilon": ("bn_epsilon", model.bn_epsilon),
        "survival_prob": ("drop_path_rate", 1 - model.survival_prob),
    }
