"""Modes eval, infer and export: what a trained network says, and how it is handed on."""

from absl import flags

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.tf_import import import_tensorflow
from modes.common import named_decoding_errors, needed, report
from modes.trained import run_metrics, trained

FLAGS = flags.FLAGS


def evaluate() -> None:
    """Mode eval: the weights on the `eval` split; the averaged ones of a run."""
    run = trained()
    from efficientnetv2 import datasets
    from efficientnetv2.training.metrics import Evaluator

    config = run.config
    source = datasets.open_source(config.data, "eval", config.train.seed)
    # Published weights are left out: a data set may name their classes in another way.
    named = FLAGS.model_dir or FLAGS.labels
    if named and run.class_names and source.class_names != run.class_names:
        where = FLAGS.labels or f"{FLAGS.model_dir}/labels.txt"
        raise UserError(
            f"the classes of the data are not those of {where}; give the data that was trained on"
        )
    if len(source.class_names) != config.data.num_classes:
        raise UserError(
            f"the data has {len(source.class_names)} classes, the weights have "
            f"{config.data.num_classes}; give the data that was trained on"
        )
    evaluator = Evaluator(
        run.strategy,
        run.model,
        config.eval.batch_size,
        config.train.loss_type,
        config.data.multiclass,
    )
    bad = datasets.BadExamples(source, "eval", config.data)
    with named_decoding_errors([source], config.data):
        scores = evaluator(datasets.build_dataset(config, "eval", source=source, bad=bad))
    skipped = {"skipped_eval": bad.count} if bad.count else {}
    report({"step": run.loaded.step, **scores, **skipped})


def infer() -> None:
    """Mode infer: the best classes of images, by a run's weights, by others or by an export."""
    if not FLAGS.image_path:
        raise UserError("--image_path is needed: images or folders, separated by commas")
    if FLAGS.export_dir:
        for flag in ("weights", "model_dir"):
            if FLAGS[flag].value:
                raise UserError(f"--export_dir and --{flag} both name a network; drop one")
        import_tensorflow()
        from efficientnetv2.export.predict import load_serving

        classify = load_serving(FLAGS.export_dir)
    else:
        run = trained()
        from efficientnetv2.export.serving import ServingModule
        from efficientnetv2.training.losses import activation_of

        config, activation = run.config, activation_of(run.config.train.loss_type)
        module = ServingModule(
            run.model, config.eval.isize, config.data, run.class_names, activation
        )
        classify = module.classify
    from efficientnetv2.export.predict import predict_files

    report({"predictions": list(predict_files(classify, FLAGS.image_path, print))})


def export_run() -> None:
    """Mode export: weights as a SavedModel, read back and compared; the averaged ones of a run."""
    needed("export_dir")
    import_tensorflow()
    from efficientnetv2.export.formats import check_formats
    from efficientnetv2.export.saved_model import export_saved_model

    formats = check_formats(FLAGS.export_format)  # Before anything is loaded.
    run = trained()

    weights = {
        "source": run.loaded.source,
        "format": run.loaded.format,
        "step": run.loaded.step,
        "averaged": run.loaded.used_ema,
        "adapted": list(run.loaded.adapted),
    }
    path = export_saved_model(
        run.model,
        FLAGS.export_dir,
        run.config,
        class_names=run.class_names,
        weights=weights,
        metrics=run_metrics(run) if FLAGS.model_dir else None,
        version=FLAGS.export_version,
        formats=formats,
    )
    print(f"exported and verified: {path}")
    report({"export": path, "step": run.loaded.step})
