"""Modes search and scale."""

import sys

from absl import flags

from efficientnetv2.cli.common import config_from_flags, print_result, require_flag
from efficientnetv2.common.errors import UserError
from efficientnetv2.search.run import SearchStopped
from efficientnetv2.search.run import search as search_networks
from efficientnetv2.search.scale import scale as scale_network
from efficientnetv2.training.signals import EXIT_STOPPED

FLAGS = flags.FLAGS


def search() -> None:
    """Runs the study in --model_dir until --search_budget is spent; prints its results."""
    require_flag("model_dir")
    require_flag("search_space")
    if FLAGS.model_name:
        raise UserError("--model_name is not for --mode=search, which proposes networks; drop it")
    try:
        result = search_networks(
            FLAGS.search_space,
            config_from_flags("trial.json"),  # No setting of a named model applies.
            FLAGS.model_dir,
            budget=FLAGS.search_budget,
            sampler=FLAGS.search_sampler,
            seed=FLAGS.search_seed,
            storage=FLAGS.search_storage,
            strategy=FLAGS.strategy,
            tpu=FLAGS.tpu,
            verbose=True,
        )
    except SearchStopped as stop:
        print_result(stop.result)
        print("stopped; the same command resumes from there", file=sys.stderr)
        sys.exit(EXIT_STOPPED)
    print_result(result)


def scale() -> None:
    """Scales up --model_name to --scale_params or --scale_step_ms; prints and writes the result."""
    if FLAGS.model_name is None:
        raise UserError("--model_name is needed with --mode=scale: a network or its JSON file")
    result = scale_network(
        config_from_flags(),
        params=FLAGS.scale_params,
        step_ms=FLAGS.scale_step_ms,
        output_dir=FLAGS.output_dir or ".",
        verbose=True,
    )
    print_result(result)
