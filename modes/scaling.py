"""Mode scale: a larger network from one, to so many parameters or so long a training step."""

import dataclasses
import math
import os
import shlex
import sys

import yaml
from absl import flags

from efficientnetv2 import hparams
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import atomic_write
from efficientnetv2.common.tf_import import import_tensorflow
from efficientnetv2.hparams.overrides import flatten, parse_overrides
from modes.common import configured, make_output_dir, report

FLAGS = flags.FLAGS
_NETWORK = ("model.model_name", "train.isize", "eval.isize", "data.data_dir")  # Given otherwise.


def scale() -> None:
    """Writes the larger network as JSON; prints it beside the source and what was published."""
    config = _checked()
    from efficientnetv2.hparams.spec import save_spec
    from efficientnetv2.search.scaling import published_near, rows_table, sizes_table

    source = _source(config)
    if FLAGS.scale_params is not None:
        from efficientnetv2.search.scaling import to_parameters

        scaled, took = to_parameters(source, FLAGS.scale_params), None
    else:
        scaled, took = _to_step_time(source, config)
    folder = FLAGS.output_dir or "."
    path = os.path.normpath(os.path.join(folder, f"{scaled.spec.name}.json"))
    make_output_dir(folder)
    save_spec(scaled.spec, path)
    near = published_near(scaled)
    print(sizes_table(source, scaled, near))
    print(f"\n{rows_table(source, scaled, near)}")
    print(f"\nspec   {path}")
    if took is not None:
        print(f"step   {1e3 * took:.4g} ms at {scaled.train_size} pixels, measured here")
    command = _command(config, path, scaled)
    print(f"train  {command}")
    counts = scaled.counts
    report(
        {
            "spec": path,
            "phi": scaled.phi,
            "params": counts.params,
            "trainable_params": counts.trainable_params,
            "macs": counts.macs,
            "eval_size": scaled.eval_size,
            "train_size": scaled.train_size,
            "step_seconds": took,
            "published": [one.record(scaled) for one in near],
            "command": command,
        }
    )


def _checked() -> hparams.Config:
    """The config of the source. Raises: UserError for flags that do not go together."""
    name = FLAGS.model_name
    if name is None:
        raise UserError("--model_name is needed with --mode=scale: a network or its JSON file")
    if name.startswith("keras/"):
        raise UserError(f"--mode=scale needs rows of blocks, which {name} does not have")
    targets = {key: FLAGS[key].value for key in ("scale_params", "scale_step_ms")}
    given = {key: value for key, value in targets.items() if value is not None}
    if len(given) != 1:
        raise UserError("--mode=scale needs one of --scale_params=54e6 and --scale_step_ms=250")
    for key, value in given.items():
        if not 0 < value < math.inf:
            raise UserError(f"--{key} must be a number above 0, got {value}")
    if "scale_step_ms" in given:
        assigned = dict(parse_overrides(FLAGS.hparam_str))
        if "train.batch_size" not in assigned:
            raise UserError(
                "--scale_step_ms is of a step of how many images? add "
                "--hparam_str=train.batch_size=32"
            )
    return configured()


def _source(config: hparams.Config):
    """The network that is grown, at the sizes of the config; its own dropout is kept."""
    from efficientnetv2.hparams.models import get_spec, spec_from_config
    from efficientnetv2.search.scaling import Scaled

    spec = spec_from_config(config.model)
    own = get_spec(config.model.model_name)
    spec = dataclasses.replace(spec, dropout_rate=own.dropout_rate)
    return Scaled(spec, config.eval.isize, config.train_size)


def _to_step_time(source, config: hparams.Config):
    """The network whose measured step takes --scale_step_ms, and the seconds that it takes."""
    from efficientnetv2.search.measure import HostTurns, measure_spec
    from efficientnetv2.search.scaling import to_step_seconds

    turns, batch_size = HostTurns(), config.train.batch_size

    def step_seconds(spec, image_size: int) -> float:
        precision = config.train.precision
        return measure_spec(spec, image_size, batch_size, precision, turns.alone()).step_seconds

    def told(scaled, seconds: float) -> None:
        millions = scaled.counts.trainable_params / 1e6
        print(
            f"measured  phi {scaled.phi:5.2f}  {millions:8.2f} M parameters  "
            f"{scaled.train_size} pixels  {1e3 * seconds:.4g} ms",
            file=sys.stderr,
            flush=True,
        )

    import_tensorflow()
    seconds = FLAGS.scale_step_ms / 1e3
    try:
        return to_step_seconds(source, seconds, step_seconds, batch_size, told=told)
    finally:
        turns.close()


def _command(config: hparams.Config, path: str, scaled) -> str:
    """The command that trains the network as the source's settings are, at its own sizes.

    Settings that a named network brings, and a JSON file does not, are written out; those that
    made the network are in the file.
    """
    from efficientnetv2.hparams.models import given_settings

    dataset = FLAGS.dataset_cfg or "shapes"
    plain = hparams.get_config(path, dataset, data_dir=FLAGS.data_dir)
    skipped = {*_NETWORK, *(f"model.{key}" for key in given_settings(config.model))}
    values = dict(flatten(dataclasses.asdict(config)))
    settings = {
        key: values[key] for key in hparams.differing_keys(config, plain) if key not in skipped
    }
    settings |= {"train.isize": scaled.train_size, "eval.isize": scaled.eval_size}
    words = [f"{key}={_text(value)}" for key, value in settings.items()]
    if any("," in word for word in words):  # Which --hparam_str would split at.
        words = [f"{path.removesuffix('.json')}.yaml"]
        atomic_write(words[0], yaml.safe_dump(settings, sort_keys=False))
    name = scaled.spec.name
    flags_given = ["--mode=traineval", f"--model_name={path}", f"--dataset_cfg={dataset}"]
    if FLAGS.data_dir:
        flags_given.append(f"--data_dir={FLAGS.data_dir}")
    flags_given += [f"--model_dir={os.path.join('runs', name)}", f"--hparam_str={','.join(words)}"]
    return shlex.join(["python", "main.py", *flags_given])


def _text(value) -> str:
    return "null" if value is None else str(value)
