"""The command line: flags -> Config -> one call per mode.

    python main.py --mode=traineval --model_name=efficientnetv2-s --dataset_cfg=folder \
        --data_dir=PHOTOS --model_dir=RUN --hparam_str=train.epochs=50,train.batch_size=64
"""

import contextlib
import json
import sys
import types

from absl import app, flags, logging

import hparams
from datasets.quiet import import_tensorflow
from hparams import UserError

MODES = ("train", "eval", "traineval", "infer", "export")

FLAGS = flags.FLAGS
flags.DEFINE_string("mode", "traineval", f"One of {', '.join(MODES)}.")
flags.DEFINE_string("model_name", None, "Architecture; efficientnetv2-b0 if not given.")
flags.DEFINE_string("dataset_cfg", None, "shapes (the default), folder, imagenet or tfds:NAME.")
flags.DEFINE_string("hparam_str", "", "Overrides: a.b=c,… ; an item may be a .yaml file.")
flags.DEFINE_string("model_dir", None, "Directory of the run: checkpoints, config, metrics.")
flags.DEFINE_string("data_dir", None, "Directory of the images, or of TensorFlow Datasets.")
flags.DEFINE_string("strategy", "auto", "auto, one, mirrored (gpus) or tpu.")
flags.DEFINE_string("tpu", None, "Name or address of the TPU, with --strategy=tpu.")
flags.DEFINE_bool("dry_run", False, "Print the stages of the run and exit.")
flags.DEFINE_list("image_path", [], "Images or folders to infer, separated by commas.")
flags.DEFINE_string("export_dir", None, "Where to export to; with --mode=infer: the export to ask.")


def configured() -> hparams.Config:
    """The config that the flags describe."""
    return hparams.get_config(
        FLAGS.model_name,
        FLAGS.dataset_cfg or "shapes",
        FLAGS.hparam_str,
        data_dir=FLAGS.data_dir,
    )


def train() -> None:
    """Modes train and traineval: from the first step, or from the last checkpoint, to the end."""
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

    run_dir.start_run(FLAGS.model_dir, config, sources["train"].class_names)
    trainer = Trainer(config, stages, FLAGS.model_dir, strategy)

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


def evaluate() -> None:
    """Mode eval: the averaged weights of a run on its `eval` split."""
    run = trained_run()
    import datasets
    from efficientnetv2.training import Evaluator

    config = run.config
    source = datasets.open_source(config.data, "eval", config.train.seed)
    if source.class_names != run.class_names:
        raise UserError(
            f"the classes of the data are not those of {FLAGS.model_dir}/labels.txt; "
            "give the --data_dir that was trained on"
        )
    evaluator = Evaluator(run.strategy, run.model, config.eval.batch_size)
    with named_decoding_errors([source]):
        scores = evaluator(datasets.build_dataset(config, "eval", source=source))
    report({"step": run.loaded.step, **scores})


def infer() -> None:
    """Mode infer: the best classes of images, by a run's weights or by an export."""
    if not FLAGS.image_path:
        raise UserError("--image_path is needed: images or folders, separated by commas")
    if FLAGS.export_dir:
        import_tensorflow()
        from export import load_serving

        classify = load_serving(FLAGS.export_dir)
    else:
        run = trained_run()
        from export import ServingModule

        config = run.config
        module = ServingModule(run.model, config.eval.isize, config.data, run.class_names)
        classify = module.serving_default
    from export import predict_files

    report({"predictions": list(predict_files(classify, FLAGS.image_path, print))})


def export_run() -> None:
    """Mode export: a run's averaged weights as a SavedModel, read back and compared."""
    needed("export_dir")
    run = trained_run()
    from export import export_saved_model

    weights = {
        "source": run.loaded.source,
        "step": run.loaded.step,
        "averaged": run.loaded.used_ema,
    }
    path = export_saved_model(
        run.model, FLAGS.export_dir, run.config, class_names=run.class_names, weights=weights
    )
    print(f"exported and verified: {path}")
    report({"export": path, "step": run.loaded.step})


def trained_run() -> types.SimpleNamespace:
    """Returns config, class_names, model (with the run's weights), loaded and strategy."""
    needed("model_dir")
    import_tensorflow()
    from efficientnetv2 import load_weights, run_dir
    from efficientnetv2.training import build_from_config, make_strategy

    config, class_names = run_dir.open_run(FLAGS.model_dir)
    saved = {"model_name": config.model.model_name, "dataset_cfg": hparams.dataset_cfg_of(config)}
    for flag, value in saved.items():
        if (FLAGS[flag].value or value).lower() != value.lower():
            raise UserError(
                f"--{flag}={FLAGS[flag].value}, but {FLAGS.model_dir} holds a run with {value}; "
                "drop the flag"
            )
    config = hparams.with_overrides(config, FLAGS.hparam_str)
    if FLAGS.data_dir:
        config = hparams.with_values(config, data__data_dir=FLAGS.data_dir)
    strategy = make_strategy(FLAGS.strategy, FLAGS.tpu)
    with strategy.scope():
        model = build_from_config(config)
        loaded = load_weights(model, FLAGS.model_dir)
    weights = "averaged weights" if loaded.used_ema else "weights"
    print(f"{weights} of step {loaded.step} from {loaded.source}", flush=True)
    return types.SimpleNamespace(
        config=config, class_names=class_names, model=model, loaded=loaded, strategy=strategy
    )


@contextlib.contextmanager
def named_decoding_errors(sources):
    """Turns the error of an image that cannot be decoded into one that names the file."""
    import tensorflow as tf

    import datasets

    try:
        yield
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as error:
        name = datasets.find_unreadable(sources)
        if name is None:
            raise
        raise UserError(f"cannot read the image {name}; mend it or take it out") from error


def needed(flag: str) -> None:
    """Raises: UserError if a path flag is not given."""
    if not FLAGS[flag].value:
        raise UserError(f"--{flag}=PATH is needed with --mode={FLAGS.mode}")


def report(values: dict) -> None:
    """Prints the result as the last line, in JSON."""
    print(json.dumps(values), flush=True)


def main(argv: list[str]) -> None:
    """Runs one mode; what a user can mend ends as one line on stderr and exit status 2."""
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    try:
        if len(argv) > 1:
            raise UserError(f"unexpected argument {argv[1]!r}; flags start with --")
        if FLAGS.mode not in MODES:
            raise UserError(f"unknown mode {FLAGS.mode!r}{hparams.nearest(FLAGS.mode, MODES)}")
        if FLAGS.dry_run and FLAGS.mode not in ("train", "traineval"):
            raise UserError(f"--dry_run plans a training run; drop it with --mode={FLAGS.mode}")
        run_mode = {"infer": infer, "export": export_run, "eval": evaluate}.get(FLAGS.mode, train)
        run_mode()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; a bad flag is one line on stderr and exit status 2."""
    try:
        return FLAGS(argv)
    except flags.Error as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
