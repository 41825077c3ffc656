"""The network that a run's config describes."""

import keras

from efficientnetv2.keras_models import PREFIX, smallest_image
from efficientnetv2.model import build_model
from hparams import Config, ModelConfig, UserError, make_stages
from hparams.spec_settings import given_settings, spec_from_config


def build_from_config(config: Config, bn_synchronized: bool = False) -> keras.Model:
    """Builds the network of a config whose `data.num_classes` is known.

    Raises: UserError as `build_model`, and for settings or image sizes that an architecture of
    Keras does not have.
    """
    name = config.model.model_name
    shared = {"num_classes": config.data.num_classes, "bn_synchronized": bn_synchronized}
    if not name.startswith(PREFIX):
        return build_model(spec_from_config(config.model), **shared)
    given = [f"model.{key}" for key in given_settings(config.model)]
    if given:
        raise UserError(f"{name} has no {', '.join(given)}; leave them out")
    least = smallest_image(name)
    for key, size in _image_sizes(config).items():
        if size < least:
            raise UserError(f"{name} takes images of at least {least} pixels, got {key}={size}")
    return build_model(name, dropout_rate=config.model.dropout_rate, **shared)


def normalization_of(model_config: ModelConfig) -> str:
    """Returns what the network does to pixels, see `ModelSpec`; for one of Keras, that it does."""
    if model_config.model_name.startswith(PREFIX):
        return f"of {model_config.model_name}"
    return spec_from_config(model_config).normalization


def _image_sizes(config: Config) -> dict[str, int]:
    """The sizes that the network is asked to take; those of training where it can be planned."""
    sizes = {"eval.isize": config.eval.isize}
    if config.data.splits.train.num_images is not None:
        sizes["the first stage's size"] = make_stages(config)[0].image_size
    return sizes
