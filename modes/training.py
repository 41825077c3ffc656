"""Modes train and traineval."""

import contextlib
import sys

from absl import flags

from efficientnetv2 import hparams
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.tf_import import import_tensorflow
from modes.common import configured, named_decoding_errors, needed, report

FLAGS = flags.FLAGS
STOPPED = 75  # Exit status of a run that was asked to stop, and saved: EX_TEMPFAIL.


def train() -> None:
    """From the first step, or from the last checkpoint, to the end."""
    config = configured()
    if not FLAGS.dry_run:
        needed("model_dir")
    elif FLAGS.data_dir is None and config.data.splits.train.num_images is None:
        planned = hparams.planned_images(FLAGS.dataset_cfg or "shapes")
        config = hparams.with_values(config, data__splits__train__num_images=planned)
    if FLAGS.dry_run and config.data.splits.train.num_images is not None:
        return print(hparams.stage_table(hparams.make_stages(config)))
    import_tensorflow()
    from efficientnetv2.training.distribute import Workers, make_strategy

    strategy = make_strategy(FLAGS.strategy, FLAGS.tpu)  # First: a TPU must be found before any op.
    workers = Workers(strategy)
    with workers.lost_told(), contextlib.redirect_stdout(workers.stream):
        _train(config, strategy, workers)


def _train(config: hparams.Config, strategy, workers) -> None:
    """One worker's part of a run."""
    from efficientnetv2 import datasets
    from efficientnetv2.training import run_dir
    from efficientnetv2.training.environment import save_environment
    from efficientnetv2.training.signals import TrainingStopped
    from efficientnetv2.training.tensorboard import TensorBoardPictures
    from efficientnetv2.training.trainer import Trainer

    start = _starting_weights(config)
    if start is not None:
        config = configured(weights_settings=start.settings)
    evaluates = FLAGS.mode == "traineval"
    splits = ["train", "minival", "eval"] if evaluates else ["train"]
    if not config.eval.at_end:
        splits = [split for split in splits if split != "eval"]
    sources = {s: datasets.open_source(config.data, s, config.train.seed) for s in splits}
    config = datasets.with_source_facts(config, sources)
    stages = hparams.make_stages(config)
    print(hparams.stage_table(stages), flush=True)
    if FLAGS.dry_run:
        return

    _print_settings(config, strategy, evaluates)
    source = sources["train"]
    pictures = TensorBoardPictures(FLAGS.model_dir, source.class_names)
    run = (FLAGS.model_dir, config, source.class_names)
    run_dir.check_run(*run, allow_changes=FLAGS.allow_changes)
    trainer = Trainer(
        config,
        stages,
        FLAGS.model_dir,
        strategy,
        class_weights=_class_weights(config, source),
        initialize=start and (lambda model: print(f"starting from {start(model)}", flush=True)),
        observers=[pictures],
        describe_batch=lambda stage, step: datasets.names_of_batch(source, stage, step),
    )
    if workers.is_chief:  # Not before: settings that no network has must leave no run behind.
        run_dir.start_run(*run)
        save_environment(FLAGS.model_dir)
    pictures.watch(trainer.model)

    bad = {s: datasets.BadExamples(source, s, config.data) for s, source in sources.items()}

    def dataset(split, **more):
        return datasets.build_dataset(config, split, source=sources[split], bad=bad[split], **more)

    def batches(stage, first_step):
        return dataset("train", stage=stage, first_step=first_step, shard=workers.shard)

    with named_decoding_errors(sources.values(), config.data, trainer.first_record):
        evaluated = (lambda: dataset("minival")) if evaluates else None
        try:
            result = trainer.train(batches, evaluated)
        except TrainingStopped as stop:
            print(f"{stop}; the same command goes on from there", file=sys.stderr)
            sys.exit(STOPPED)
        if "eval" in splits:
            result = trainer.evaluate(dataset("eval"))
    skipped = {f"skipped_{split}": one.count for split, one in bad.items() if one.count}
    report({"step": trainer.step, **result, **skipped})


def _starting_weights(config: hparams.Config):
    """What `train.ft_init_ckpt` names, or None."""
    if config.train.ft_init_ckpt is None:
        return None
    from efficientnetv2.training.starting_weights import open_starting_weights

    name = config.model.model_name
    return open_starting_weights(name, config.train.ft_init_ckpt, config.train.ft_init_ema)


def _print_settings(config: hparams.Config, strategy, evaluates: bool) -> None:
    """Prints what holds where the config leaves it open."""
    from efficientnetv2.training.optimizer import effective_jit

    replicas = strategy.num_replicas_in_sync
    settings = [
        f"{replicas} replicas" if replicas > 1 else "1 device",
        config.train.precision,
        f"XLA {'on' if effective_jit(config, strategy) else 'off'}",
        config.train.optimizer,
    ]
    if config.freezes_batch_norm:
        settings.append("BatchNorm frozen")
    print(", ".join(settings), flush=True)
    if config.eval.best_metric and not evaluates:
        print("no best weights are kept: --mode=train evaluates nothing, traineval does")


def _class_weights(config: hparams.Config, source) -> tuple[float, ...] | None:
    """The weights of the classes, of `data.class_balance=loss`.

    Raises: UserError if the source does not know how many examples each class has, or has none.
    """
    if config.data.class_balance != "loss":
        return None
    from efficientnetv2.training.losses import class_weights_of

    if source.class_counts is None:
        raise UserError(
            "data.class_balance=loss needs the number of examples of each class, which data of "
            f"data.ds_name={config.data.ds_name} does not tell; folder and csv do, and TFRecords "
            "that --mode=prepare wrote"
        )
    return class_weights_of(source.class_counts, source.class_names)
