"""What in an export differs from the official code and its defaults, in words, for its card.

The reasons, and what differs in training alone, are in docs/deviations.md.
"""

import dataclasses
from collections.abc import Iterable

from hparams import Config, model_layer
from hparams.overrides import flatten, override

_OF_EVERY_EXPORT = (
    "predict_images takes uint8: resized pixels are rounded, up to half a level from "
    "serving_default, which keeps them as resized, as officially",
    "BatchNorm and the scale of pixels are folded into the convolutions: scores differ by rounding",
    "images of more than max_pixels pixels are refused",
    "8-bit BMP files are read through their palette",
)
_OF_A_MODEL = {
    "efficientnet-b3": "24 channels in the first stage, as V1 has it, officially 16",
}
_CHANGE_THE_ANSWER = ("model.", "eval.isize", "data.eval_crop", "data.resize_method")
_OF_TRAINING_ALONE = (
    "model.model_name",
    "model.dropout_rate",
    "model.dropout_base",
    "model.survival_prob",
    "model.bn_momentum",
)


def deviations(config: Config, adapted: Iterable[str] = ()) -> list[str]:
    """Returns a sentence for each difference; `adapted`: what loading the weights changed."""
    name = config.model.model_name
    named = [_OF_A_MODEL[name]] if name in _OF_A_MODEL else []
    official = override(Config(), flatten(model_layer(name, config.train.schedule)))
    theirs = dict(flatten(dataclasses.asdict(official)))
    settings = [
        f"{key}={value}, by default {theirs[key] or 'as the model has it'}"
        for key, value in flatten(dataclasses.asdict(config))
        if key.startswith(_CHANGE_THE_ANSWER)
        and key not in _OF_TRAINING_ALONE
        and value != theirs[key]
    ]
    return [*_OF_EVERY_EXPORT, *named, *adapted, *settings]
