"""The network that a run's config describes."""

import dataclasses

import keras

from efficientnetv2.keras_models import PREFIX, smallest_image
from efficientnetv2.model import build_model
from hparams import Config, ModelConfig, UserError, make_stages
from hparams.architecture_tables import get_spec
from hparams.architectures import ModelSpec
from hparams.spec_files import check_spec


def build_from_config(config: Config, bn_synchronized: bool = False) -> keras.Model:
    """Builds the network of a config whose `data.num_classes` is known.

    Raises: UserError as `build_model`, and for settings or image sizes that an architecture of
    Keras does not have.
    """
    name = config.model.model_name
    shared = {"num_classes": config.data.num_classes, "bn_synchronized": bn_synchronized}
    if not name.startswith(PREFIX):
        return build_model(spec_from_config(config.model), **shared)
    given = [f"model.{key}" for key in _given(config.model)]
    if given:
        raise UserError(f"{name} has no {', '.join(given)}; leave them out")
    least = smallest_image(name)
    for key, size in _image_sizes(config).items():
        if size < least:
            raise UserError(f"{name} takes images of at least {least} pixels, got {key}={size}")
    return build_model(name, dropout_rate=config.model.dropout_rate, **shared)


def spec_from_config(model_config: ModelConfig) -> ModelSpec:
    """Returns the specification of a `ModelConfig`: the named one with its overrides.

    A setting at the default of `ModelConfig` leaves what the specification, such as a JSON file,
    says; but dropout is always the config's, which raises it from stage to stage.
    Raises: UserError for an unknown name, or settings that do not go together.
    """
    spec = get_spec(model_config.model_name)
    given = dict(_given(model_config).values())
    spec = dataclasses.replace(spec, dropout_rate=model_config.dropout_rate, **given)
    return check_spec(spec, model_config.model_name)


def normalization_of(model_config: ModelConfig) -> str:
    """Returns what the network does to pixels, see `ModelSpec`; for one of Keras, that it does."""
    if model_config.model_name.startswith(PREFIX):
        return f"of {model_config.model_name}"
    return spec_from_config(model_config).normalization


def _given(model: ModelConfig) -> dict[str, tuple[str, object]]:
    """The settings that are not the defaults of the config, as `_settings`."""
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


def _image_sizes(config: Config) -> dict[str, int]:
    """The sizes that the network is asked to take; those of training where it can be planned."""
    sizes = {"eval.isize": config.eval.isize}
    if config.data.splits.train.num_images is not None:
        sizes["the first stage's size"] = make_stages(config)[0].image_size
    return sizes
