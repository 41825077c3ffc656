"""Helpers shared by modes: config and network from flags, checks, and the result line."""

import json

from absl import flags

from efficientnetv2 import hparams
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import make_local_folder
from efficientnetv2.common.tf_import import import_tensorflow

FLAGS = flags.FLAGS


def config_from_flags(model_name: str | None = None) -> hparams.Config:
    """Builds the config that the flags describe; `model_name` replaces that of the flags."""
    config = hparams.get_config(
        model_name or FLAGS.model_name,
        FLAGS.dataset_cfg or "shapes",
        FLAGS.hparam_str,
        data_dir=FLAGS.data_dir,
    )
    if FLAGS.data_service:
        config = hparams.with_values(config, runtime__data_service=FLAGS.data_service)
    return config


def trained_from_flags():
    """Loads the network that --model_dir or --weights names, as a `Trained`.

    Raises: UserError if neither or both are given, or if they do not match the other flags.
    """
    if FLAGS.weights and FLAGS.model_dir:
        raise UserError("--model_dir and --weights both name weights; drop one")
    where = {"strategy": FLAGS.strategy, "tpu": FLAGS.tpu, "verbose": True}
    if FLAGS.weights:
        if not FLAGS.model_name:
            raise UserError("--model_name is needed with --weights, to know the network")
        config = config_from_flags()  # Reports mistakes in the flags before any download.
        import_tensorflow()
        from efficientnetv2.training.load_trained import load_pretrained

        return load_pretrained(config, FLAGS.weights, labels=FLAGS.labels, **where)
    require_flag("model_dir")
    import_tensorflow()
    from efficientnetv2.training.load_trained import load_run

    _check_is_the_run()
    return load_run(
        FLAGS.model_dir,
        checkpoint=FLAGS.checkpoint,
        overrides=FLAGS.hparam_str,
        data_dir=FLAGS.data_dir,
        **where,
    )


def _check_is_the_run() -> None:
    """Checks the flags against the run. Raises: UserError if its model or data set differs."""
    from efficientnetv2.training import run_dir

    config, _ = run_dir.open_run(FLAGS.model_dir)
    saved = {
        "model_name": run_dir.model_name(FLAGS.model_dir),
        "dataset_cfg": hparams.dataset_cfg_of(config),
    }
    for flag, value in saved.items():
        if (FLAGS[flag].value or value).lower() != value.lower():
            raise UserError(
                f"--{flag}={FLAGS[flag].value}, but {FLAGS.model_dir} holds a run with {value}; "
                "drop the flag"
            )


def require_flag(flag: str) -> None:
    """Checks that a flag is given. Raises: UserError if it is not."""
    if not FLAGS[flag].value:
        raise UserError(f"--{flag}=PATH is needed with --mode={FLAGS.mode}")


def make_output_dir(path: str) -> None:
    """Creates the --output_dir folder if it is missing. Raises: UserError if that fails."""
    make_local_folder(path, f"cannot write to --output_dir={path}")


def print_result(values: dict) -> None:
    """Prints the result as JSON, on the last line."""
    print(json.dumps(values), flush=True)
