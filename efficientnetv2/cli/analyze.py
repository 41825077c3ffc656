"""Modes profile and report."""

import sys

from absl import flags

from efficientnetv2 import hparams
from efficientnetv2.cli.common import (
    config_from_flags,
    make_output_dir,
    print_result,
    require_flag,
    trained_from_flags,
)
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.tf_import import import_tensorflow

FLAGS = flags.FLAGS


def profile() -> None:
    """Prints what a model costs at its evaluation size; --model_name=all: every named model."""
    name = FLAGS.model_name
    if name is None:
        raise UserError("--model_name is needed with --mode=profile: a model, or all")
    if name == "all" and FLAGS.hparam_str:
        raise UserError("--hparam_str is for one model; drop it, or name the model")
    # Published figures belong to a name; a config may describe a different network.
    config = None if name == "all" else config_from_flags()
    if FLAGS.output_dir:
        make_output_dir(FLAGS.output_dir)
    import_tensorflow()
    import keras

    from efficientnetv2.network.profile import profile_record, profile_table
    from efficientnetv2.report.profile import profile as profile_network
    from efficientnetv2.report.profile import save_profiles

    profiles = []
    if name == "all":
        for number, model in enumerate(hparams.MODELS, 1):
            print(f"{number}/{len(hparams.MODELS)} {model}", file=sys.stderr, flush=True)
            profiles.append(profile_network(model))
            keras.backend.clear_session()  # The largest models take gigabytes.
    else:
        network = config if FLAGS.hparam_str else name
        profiles.append(profile_network(network, config.eval.isize))
    print(profile_table(profiles))
    if FLAGS.output_dir:
        save_profiles(profiles, FLAGS.output_dir, verbose=True)
    print_result({"profiles": [profile_record(one) for one in profiles]})


def report() -> None:
    """Writes report.html, PNGs and report.json to --output_dir, else to `report` in --model_dir."""
    require_flag("model_dir")
    import_tensorflow()
    from efficientnetv2.report.report import report as write_report
    from efficientnetv2.training.run_dir import open_run
    from efficientnetv2.weights.tf_checkpoint import checkpoint_prefix

    open_run(FLAGS.model_dir)
    trained = checkpoint_prefix(FLAGS.model_dir) is not None or FLAGS.checkpoint == "best"
    run = trained_from_flags() if trained else FLAGS.model_dir
    print_result(write_report(run, FLAGS.output_dir, verbose=True))
