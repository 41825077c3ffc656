"""Library call for scaling: `scale` grows a network to a target size and writes it."""

import dataclasses
import math
import os

from efficientnetv2 import hparams
from efficientnetv2.common.console import show, verbosity
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import as_path, make_local_folder
from efficientnetv2.common.tf_import import import_tensorflow
from efficientnetv2.hparams import Config
from efficientnetv2.hparams.models import get_spec, given_settings, spec_from_config
from efficientnetv2.hparams.spec import ModelSpec, save_spec
from efficientnetv2.search.commands import train_command
from efficientnetv2.search.measure import HostTurns, measure_spec
from efficientnetv2.search.scaling import (
    Scaled,
    published_near,
    rows_table,
    sizes_table,
    to_parameters,
    to_step_seconds,
)

_NETWORK = ("model.model_name", "train.isize", "eval.isize")  # Not overrides of the command.


def scale(
    config: Config,
    *,
    params: float | None = None,
    step_ms: float | None = None,
    output_dir: str | os.PathLike = ".",
    verbose: bool = False,
) -> dict:
    """Scales a network up to a number of parameters or to a training step time, and writes it.

    `params` does not need TensorFlow; `step_ms` measures at most six networks on this device.
    `--mode=scale` makes this call. See docs/search.md.

    Args:
        config: from `get_config`: the network to scale, its image sizes, and with `step_ms` the
            batch size, for which `train.batch_size` must be set.
        params: trainable parameters for 1000 classes, such as 54e6.
        step_ms: milliseconds of a training step. Give either this or `params`.
        output_dir: folder for NAME.json, and for NAME.yaml if the command needs it.
        verbose: print the tables of the command line.

    Returns:
        "spec": path of the JSON file, for `get_config` or `build_model`;
        "phi": the scaling coefficient; "params", "trainable_params", "macs" (multiply-adds);
        "eval_size", "train_size": pixels;
        "step_seconds": measured time of its training step, None with `params`;
        "published": EfficientNetV2 networks of about the same size, and the differences;
        "command": the command line that trains it.

    Raises: UserError, one line, for invalid or incompatible arguments, a target below the source,
        a network that is too large to build, or files that cannot be written.

    Example:
        config = effnet.get_config("efficientnetv2-s", "imagenet", data_dir="imagenet")
        scaled = effnet.scale(config, params=54e6, output_dir="networks", verbose=True)
        model = effnet.build_model(scaled["spec"])
    """
    _check_arguments(config, params, step_ms)
    with verbosity(verbose):
        return _scale(config, params, step_ms, as_path(output_dir, "output_dir"))


def _check_arguments(config: Config, params: float | None, step_ms: float | None) -> None:
    """Checks the arguments. Raises: UserError if they are invalid or incompatible."""
    if not isinstance(config, Config):
        raise UserError("config must come from get_config")
    name = config.model.model_name
    if name.startswith("keras/"):
        raise UserError(f"--mode=scale needs rows of blocks, which {name} does not have")
    targets = {"scale_params": params, "scale_step_ms": step_ms}
    targets = {key: value for key, value in targets.items() if value is not None}
    if len(targets) != 1:
        raise UserError("--mode=scale needs one of --scale_params=54e6 and --scale_step_ms=250")
    for key, value in targets.items():
        if not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise UserError(f"--{key} must be a number above 0, got {value}")
    inputs = hparams.inputs_of(config)
    stated = inputs is None or "train.batch_size" in inputs.overrides
    if step_ms is not None and not stated:
        raise UserError(
            "--scale_step_ms is of a step of how many images? add --hparam_str=train.batch_size=32"
        )


def _scale(config: Config, params: float | None, step_ms: float | None, output_dir: str) -> dict:
    source, step_seconds = _source(config), None
    if params is not None:
        scaled = to_parameters(source, params)
    else:
        scaled, step_seconds = _to_measured_step(source, config, step_ms / 1e3)
    make_local_folder(output_dir, f"cannot write to --output_dir={output_dir}")
    path = os.path.normpath(os.path.join(output_dir, f"{scaled.spec.name}.json"))
    save_spec(scaled.spec, path)
    near, command = published_near(scaled), _train_command(config, path, scaled)
    show(sizes_table(source, scaled, near))
    show(f"\n{rows_table(source, scaled, near)}")
    show(f"\nspec   {path}")
    if step_seconds is not None:
        milliseconds = 1e3 * step_seconds
        show(f"step   {milliseconds:.4g} ms at {scaled.train_size} pixels, measured here")
    show(f"train  {command}")
    return {
        "spec": path,
        "phi": scaled.phi,
        "params": scaled.counts.params,
        "trainable_params": scaled.counts.trainable_params,
        "macs": scaled.counts.macs,
        "eval_size": scaled.eval_size,
        "train_size": scaled.train_size,
        "step_seconds": step_seconds,
        "published": [network.record(scaled) for network in near],
        "command": command,
    }


def _source(config: Config) -> Scaled:
    """Returns the network to scale, at the sizes of the config, with its own dropout."""
    own = get_spec(config.model.model_name)
    spec = dataclasses.replace(spec_from_config(config.model), dropout_rate=own.dropout_rate)
    return Scaled(spec, config.eval.isize, config.train_size)


def _to_measured_step(source: Scaled, config: Config, seconds: float) -> tuple[Scaled, float]:
    """Returns the network whose measured step takes about `seconds`, and its measured time."""
    import_tensorflow()
    lock, batch_size, precision = HostTurns(), config.train.batch_size, config.train.precision

    def step_seconds(spec: ModelSpec, image_size: int) -> float:
        measured = measure_spec(spec, image_size, batch_size, precision, lock.alone())
        return measured.step_seconds

    def show_measured(scaled: Scaled, seconds: float) -> None:
        millions = scaled.counts.trainable_params / 1e6
        show(
            f"measured  phi {scaled.phi:5.2f}  {millions:8.2f} M parameters  "
            f"{scaled.train_size} pixels  {1e3 * seconds:.4g} ms",
            stderr=True,
        )

    try:
        return to_step_seconds(source, seconds, step_seconds, batch_size, told=show_measured)
    finally:
        lock.close()


def _train_command(config: Config, path: str, scaled: Scaled) -> str:
    """Returns the command that trains the network with the settings of the source, at its sizes.

    Settings that are implied by a named network but not by a JSON file become overrides; those of
    the network itself are in the file.
    """
    inputs = hparams.inputs_of(config)
    dataset_cfg = inputs.dataset_cfg if inputs else hparams.dataset_cfg_of(config)
    plain = hparams.get_config(path, dataset_cfg, data_dir=config.data.data_dir)
    skipped = {*_NETWORK, *(f"model.{key}" for key in given_settings(config.model))}
    values = dict(hparams.settings_of(config))
    overrides = {
        key: values[key] for key in hparams.differing_keys(config, plain) if key not in skipped
    }
    overrides |= {"train.isize": scaled.train_size, "eval.isize": scaled.eval_size}
    if config.data.data_dir is not None:
        overrides["data.data_dir"] = config.data.data_dir
    return train_command(path, os.path.join("runs", scaled.spec.name), dataset_cfg, overrides)
