"""Modes train and traineval."""

from absl import flags

import hparams
from datasets.quiet import import_tensorflow
from hparams import UserError
from modes.common import configured, named_decoding_errors, needed, report

FLAGS = flags.FLAGS


def train() -> None:
    """From the first step, or from the last checkpoint, to the end."""
    config = configured()
    evaluates = FLAGS.mode == "traineval"
    if not FLAGS.dry_run:
        needed("model_dir")
    elif FLAGS.data_dir is None and config.data.splits.train.num_images is None:
        planned = hparams.planned_images(FLAGS.dataset_cfg or "shapes")
        config = hparams.with_values(config, data__splits__train__num_images=planned)
    if FLAGS.dry_run and config.data.splits.train.num_images is not None:
        return print(hparams.stage_table(hparams.make_stages(config)))
    import_tensorflow()
    import datasets
    from efficientnetv2 import run_dir
    from efficientnetv2.training import Trainer, make_strategy

    strategy = make_strategy(FLAGS.strategy, FLAGS.tpu)  # First: a TPU must be found before any op.
    splits = ["train", "minival", "eval"] if evaluates else ["train"]
    sources = {s: datasets.open_source(config.data, s, config.train.seed) for s in splits}
    config = datasets.with_source_facts(config, sources)
    stages = hparams.make_stages(config)
    print(hparams.stage_table(stages), flush=True)
    if FLAGS.dry_run:
        return

    weights = _class_weights(config, sources["train"])
    run = (FLAGS.model_dir, config, sources["train"].class_names)
    run_dir.check_run(*run)
    trainer = Trainer(config, stages, FLAGS.model_dir, strategy, class_weights=weights)
    run_dir.start_run(*run)  # Not before: settings that no network has must leave no run behind.

    bad = {s: datasets.BadExamples(source, s, config.data) for s, source in sources.items()}

    def dataset(split, **more):
        return datasets.build_dataset(config, split, source=sources[split], bad=bad[split], **more)

    def batches(stage, first_step):
        return dataset("train", stage=stage, first_step=first_step)

    def first_number():
        return trainer.step * config.train.batch_size

    with named_decoding_errors(sources.values(), config.data, first_number):
        evaluated = (lambda: dataset("minival")) if evaluates else None
        result = trainer.train(batches, evaluated)
        if evaluates:
            result = trainer.evaluate(dataset("eval"))
    skipped = {f"skipped_{split}": one.count for split, one in bad.items() if one.count}
    report({"step": trainer.step, **result, **skipped})


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
