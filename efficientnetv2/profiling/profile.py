"""The profile of a network: its size and its cost per image, in all and per part."""

import dataclasses
import math

import keras

from efficientnetv2.keras_models import PREFIX
from efficientnetv2.model import build_model
from efficientnetv2.profiling.costs import layer_costs
from hparams import UserError
from hparams.architecture_tables import get_spec
from hparams.architectures import ModelSpec
from hparams.published import Published, published_figures

_BYTES_PER_PARAM = 4  # float32.


@dataclasses.dataclass(frozen=True)
class Part:
    """A stage of a network, or its stem, head or classifier; counted as `LayerCost` is."""

    name: str
    params: int
    macs: int
    activations: int


@dataclasses.dataclass(frozen=True)
class Profile:
    """What a network costs for one image of `image_size` x `image_size` pixels."""

    model: str
    image_size: int
    params: int
    trainable_params: int  # Without the moving averages of BatchNorm; what papers give.
    macs: int
    activations: int
    parts: tuple[Part, ...]  # In order, from the image to the logits.
    published: tuple[Published, ...] = ()  # Of a named architecture.

    @property
    def megabytes(self) -> float:
        """Of the weights on disk, as float32, in units of 10^6 bytes."""
        return self.params * _BYTES_PER_PARAM / 1e6


def profile_model(name_or_spec: str | ModelSpec, image_size: int) -> Profile:
    """Builds a network without its preprocessing, for 1000 classes, and profiles it.

    A name may be any that `build_model` takes. Published figures come with a name only: a
    specification may differ from its namesake.
    Raises: UserError for an unknown name, or a size that is no positive integer.
    """
    if not isinstance(image_size, int) or image_size < 1:
        raise UserError(f"image_size must be a positive number of pixels, got {image_size}")
    shape = (image_size, image_size, 3)
    if not isinstance(name_or_spec, str):
        return _profile_spec(name_or_spec, shape)
    if name_or_spec.startswith(PREFIX):  # Some of these always have their preprocessing.
        profile = profile_built(build_model(name_or_spec, input_shape=shape))
        return dataclasses.replace(profile, model=name_or_spec)
    profile = _profile_spec(get_spec(name_or_spec), shape)
    return dataclasses.replace(profile, published=published_figures(name_or_spec))


def _profile_spec(spec: ModelSpec, shape: tuple[int, int, int]) -> Profile:
    return profile_built(build_model(spec, include_preprocessing=False, input_shape=shape), spec)


def profile_built(model: keras.Model, spec: ModelSpec | None = None) -> Profile:
    """Profiles a functional or sequential model of a fixed, square input size.

    Its parts are those of `spec` if it was built from one, else resolutions.
    Raises: UserError as `layer_costs` does, or if the input is not square or not one image.
    """
    shape = model.input_shape
    if len(shape) != 4 or shape[1] is None or shape[1] != shape[2]:
        raise UserError(
            f"cannot profile {model.name} with an input of {shape}; "
            "build it with a square input_shape such as (224, 224, 3)"
        )
    parts: dict[str, Part] = {}
    for cost in layer_costs(model, spec):
        so_far = parts.get(cost.part, Part(cost.part, 0, 0, 0))
        parts[cost.part] = Part(
            cost.part,
            so_far.params + cost.params,
            so_far.macs + cost.macs,
            so_far.activations + cost.activations,
        )
    return Profile(
        model=model.name,
        image_size=shape[1],
        params=sum(part.params for part in parts.values()),
        trainable_params=sum(math.prod(w.shape) for w in model.trainable_weights),
        macs=sum(part.macs for part in parts.values()),
        activations=sum(part.activations for part in parts.values()),
        parts=tuple(parts.values()),
    )
