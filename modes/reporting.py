"""Mode report: a page that shows a run, finished or not."""

import os

from absl import flags

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.tf_import import import_tensorflow
from modes.common import named_decoding_errors, needed, report
from modes.trained import trained

FLAGS = flags.FLAGS


def write_report() -> None:
    """Writes report.html, PNGs and report.json of --model_dir to --output_dir, or below it.

    It evaluates the `eval` split, or, of a run that is not finished, `minival`.
    """
    needed("model_dir")
    import_tensorflow()
    from efficientnetv2 import report as reports
    from efficientnetv2.training import run_dir
    from efficientnetv2.training.checkpoint import read_best
    from efficientnetv2.weights.tf_checkpoint import checkpoint_prefix

    config, class_names = run_dir.open_run(FLAGS.model_dir)
    history = reports.read_history(FLAGS.model_dir, config)
    findings = model = None
    if checkpoint_prefix(FLAGS.model_dir) is not None or FLAGS.checkpoint == "best":
        run = trained()
        split = "eval" if reports.is_finished(history, config) else "minival"
        findings, model = _evaluated(run, split), run.model
    else:
        print(f"no checkpoint in {FLAGS.model_dir} yet: curves and settings alone", flush=True)
    path = reports.write_report(
        reports.Run(
            os.path.basename(os.path.abspath(FLAGS.model_dir)),
            config,
            class_names,
            history,
            findings,
            model,
            read_best(FLAGS.model_dir),
            reports.saved_environments(FLAGS.model_dir),
        ),
        FLAGS.output_dir or os.path.join(FLAGS.model_dir, "report"),
    )
    scores = findings.scores if findings else {}
    report({"report": path, "step": findings.step if findings else None, **scores})


def _evaluated(run, split: str):
    """What an evaluation of a split finds out."""
    from efficientnetv2 import datasets
    from efficientnetv2.report.evaluate import evaluate_run

    config = run.config
    source = datasets.open_source(config.data, split, config.train.seed)
    if source.class_names != run.class_names:
        raise UserError(
            f"the classes of the data are not those of {FLAGS.model_dir}/labels.txt; give the data "
            "that was trained on, by --data_dir"
        )
    bad = datasets.BadExamples(source, split, config.data)

    def names_at(positions):
        wanted, names = set(positions), {}
        for position, record in enumerate(source.records(None)):
            if position in wanted:
                names[position] = source.name_of(*record).numpy().decode("utf-8", "replace")
        # Where some were skipped, positions do not tell which an example was.
        return [names[position] if not bad.count else "" for position in positions]

    with named_decoding_errors([source], config.data):
        dataset = datasets.build_dataset(config, split, source=source, bad=bad)
        return evaluate_run(
            run.strategy,
            run.model,
            config,
            dataset,
            split=split,
            step=run.loaded.step,
            names_at=names_at,
        )
