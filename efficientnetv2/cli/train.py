"""Modes train and traineval."""

import sys

from absl import flags

from efficientnetv2 import hparams
from efficientnetv2.cli.common import config_from_flags, print_result, require_flag
from efficientnetv2.common.tf_import import import_tensorflow
from efficientnetv2.training.signals import EXIT_STOPPED, TrainingStopped

FLAGS = flags.FLAGS


def train() -> None:
    """Trains from the start or resumes from the last checkpoint; --dry_run prints the stages."""
    config, evaluate = config_from_flags(), FLAGS.mode == "traineval"
    if FLAGS.dry_run:
        return _print_stages(config, evaluate)
    require_flag("model_dir")
    import_tensorflow()
    from efficientnetv2.training.distribute import Workers, make_strategy
    from efficientnetv2.training.run import train as train_run

    strategy = make_strategy(FLAGS.strategy, FLAGS.tpu)
    try:
        result = train_run(
            config,
            FLAGS.model_dir,
            evaluate=evaluate,
            strategy=strategy,
            allow_changes=FLAGS.allow_changes,
            verbose=True,
        )
    except TrainingStopped as stop:
        print(f"{stop}; the same command resumes from there", file=sys.stderr)
        sys.exit(EXIT_STOPPED)
    if Workers(strategy).is_chief:
        print_result(result)


def _print_stages(config: hparams.Config, evaluate: bool) -> None:
    """Prints the stages of a run, without TensorFlow if the number of images is known."""
    if FLAGS.data_dir is None and config.data.splits.train.num_images is None:
        planned = hparams.planned_images(FLAGS.dataset_cfg or "shapes")
        config = hparams.with_values(config, data__splits__train__num_images=planned)
    if config.data.splits.train.num_images is not None:
        stages = hparams.make_stages(config)
    else:
        import_tensorflow()
        from efficientnetv2.training.run import plan

        stages = plan(config, evaluate=evaluate)
    print(hparams.stage_table(stages))
