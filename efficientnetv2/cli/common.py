"""Parts of several modes: the config and the network of the flags, checks, and the result line."""

import json

from absl import flags

from efficientnetv2 import hparams
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import make_local_folder
from efficientnetv2.common.tf_import import import_tensorflow

FLAGS = flags.FLAGS


def config_from_flags(model_name: str | None = None) -> hparams.Config:
    """The config that the flags describe; `model_name` replaces that of the flags."""
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
    """The network that --model_dir or --weights names, with its weights: a `Trained`.

    Raises: UserError if neither or both are given, or what they name does not fit the other flags.
    """
    if FLAGS.weights and FLAGS.model_dir:
        raise UserError("--model_dir and --weights both name weights; drop one")
    where = {"strategy": FLAGS.strategy, "tpu": FLAGS.tpu, "verbose": True}
    if FLAGS.weights:
        if not FLAGS.model_name:
            raise UserError("--model_name is needed with --weights, to know the network")
        config = config_from_flags()  # A mistake in the flags shows before anything is downloaded.
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
    """Raises: UserError if flags name another model or data set than the run's."""
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
    """Raises: UserError if a flag is not given."""
    if not FLAGS[flag].value:
        raise UserError(f"--{flag}=PATH is needed with --mode={FLAGS.mode}")


def make_output_dir(path: str) -> None:
    """Makes the folder of --output_dir, if it is missing. Raises: UserError if it cannot."""
    make_local_folder(path, f"cannot write to --output_dir={path}")


def print_result(values: dict) -> None:
    """Prints the result as the last line, in JSON."""
    print(json.dumps(values), flush=True)
