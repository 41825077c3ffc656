"""Modes eval, infer, export, verify and demo."""

from absl import flags

from efficientnetv2.cli.common import print_result, require_flag, trained_from_flags
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.tf_import import import_tensorflow

FLAGS = flags.FLAGS


def evaluate() -> None:
    """Evaluates weights, for a run the averaged ones, on the split `eval`."""
    run = trained_from_flags()
    from efficientnetv2.training.load_trained import evaluate as evaluate_run

    print_result(evaluate_run(run, verbose=True))


def infer() -> None:
    """Predicts the top classes of images with a run, other weights or an export."""
    if not FLAGS.image_path:
        raise UserError("--image_path is needed: images or folders, separated by commas")
    if FLAGS.export_dir:
        for flag in ("weights", "model_dir"):
            if FLAGS[flag].value:
                raise UserError(f"--export_dir and --{flag} both name a network; drop one")
        import_tensorflow()
    run = FLAGS.export_dir or trained_from_flags()
    from efficientnetv2.export.predict import predict

    print_result({"predictions": list(predict(run, FLAGS.image_path, verbose=True))})


def export() -> None:
    """Exports weights, for a run the averaged ones, as a SavedModel; reloads and verifies it."""
    require_flag("export_dir")
    import_tensorflow()
    from efficientnetv2.export.formats import check_formats
    from efficientnetv2.export.saved_model import export as export_run

    formats = check_formats(FLAGS.export_format)  # Before anything is loaded.
    run = trained_from_flags()
    version = FLAGS.export_version
    path = export_run(run, FLAGS.export_dir, formats=formats, version=version, verbose=True)
    print(f"exported and verified: {path}")
    print_result({"export": path, "step": run.loaded.step})


def verify() -> None:
    """Verifies --export_dir, with --model_dir or --weights also against that network."""
    require_flag("export_dir")
    run = trained_from_flags() if FLAGS.model_dir or FLAGS.weights else None
    import_tensorflow()
    from efficientnetv2.export.verify import verify as verify_export

    output_dir = FLAGS.output_dir
    print_result(verify_export(FLAGS.export_dir, run, output_dir=output_dir, verbose=True))


def demo() -> None:
    """Serves a local web page for trying a trained network, until Ctrl-C."""
    import_tensorflow()
    from efficientnetv2.export.demo import demo as demo_page

    with demo_page(trained_from_flags(), port=FLAGS.port, verbose=True) as (url, page):
        print(f"open {url} ; Ctrl-C ends", flush=True)
        print_result({"url": url})
        page.block_thread()
