"""Modes train and traineval."""

from absl import flags

import hparams
from datasets.quiet import import_tensorflow
from modes.common import configured, named_decoding_errors, needed, report

FLAGS = flags.FLAGS


def train() -> None:
    """From the first step, or from the last checkpoint, to the end."""
    config = configured()
    evaluates = FLAGS.mode == "traineval"
    if not FLAGS.dry_run:
        needed("model_dir")
    elif config.data.splits.train.num_images is not None:
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

    run = (FLAGS.model_dir, config, sources["train"].class_names)
    run_dir.check_run(*run)
    trainer = Trainer(config, stages, FLAGS.model_dir, strategy)
    run_dir.start_run(*run)  # Not before: settings that no network has must leave no run behind.

    def batches(stage, first_step):
        return datasets.build_dataset(
            config, "train", stage=stage, first_step=first_step, source=sources["train"]
        )

    def examples(split):
        return datasets.build_dataset(config, split, source=sources[split])

    with named_decoding_errors(sources.values()):
        result = trainer.train(batches, (lambda: examples("minival")) if evaluates else None)
        if evaluates:
            result = trainer.evaluate(examples("eval"))
    report({"step": trainer.step, **result})
