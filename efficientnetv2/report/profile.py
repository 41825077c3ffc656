"""Network profiles, with charts and a JSON file (`--mode=profile`)."""

import json
import os
from collections.abc import Sequence

from efficientnetv2.common.console import show, verbosity
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import as_path, atomic_write, make_folder
from efficientnetv2.hparams import Config, get_config
from efficientnetv2.hparams.models import spec_from_config
from efficientnetv2.hparams.spec import ModelSpec
from efficientnetv2.network.keras_models import PREFIX
from efficientnetv2.network.profile import Profile, profile_model, profile_record
from efficientnetv2.report.plots import save_chart


def profile(model: str | ModelSpec | Config, image_size: int | None = None) -> Profile:
    """Counts the costs of a network for one image: parameters, multiply-adds, activations, size.

    Args:
        model: a name, "keras/NAME", a JSON file, a specification, or a config with the network.
        image_size: pixels; None: the evaluation size of the named model or the config.

    Returns: a `Profile`: `params`, `trainable_params`, `macs` (multiply-adds, called FLOPs in
        papers of this field), `activations`, `megabytes`, the same per part, and published figures.

    Raises: UserError for an unknown name or a size that is not positive.

    Example:
        effnet.profile("efficientnetv2-s").macs / 1e9
    """
    if isinstance(model, Config):
        name, size = model.model.model_name, model.eval.isize
        model = name if name.startswith(PREFIX) else spec_from_config(model.model)
    elif isinstance(model, str):
        size = get_config(model).eval.isize if image_size is None else image_size
    else:
        size = image_size
    if image_size is None and size is None:
        raise UserError("image_size is needed with a specification, in pixels")
    return profile_model(model, size if image_size is None else image_size)


def save_profiles(
    profiles: Sequence[Profile], output_dir: str | os.PathLike, *, verbose: bool = False
) -> None:
    """Writes a chart per profile, NAME-SIZE.png, and profile.json. Raises: UserError."""
    output_dir = as_path(output_dir, "output_dir")
    make_folder(output_dir)
    with verbosity(verbose):
        for one in profiles:
            name = one.model.replace("/", "-")
            path = os.path.join(output_dir, f"{name}-{one.image_size}.png")
            save_chart(one, path)
            show(f"chart  {path}")
    records = [profile_record(one) for one in profiles]
    atomic_write(os.path.join(output_dir, "profile.json"), json.dumps(records, indent=1))
