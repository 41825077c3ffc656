"""A network with its weights: of a run (`--model_dir`), or of a file or name (`--weights`)."""

import dataclasses
import os
from typing import Any

from absl import flags

from efficientnetv2 import hparams
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.tf_import import import_tensorflow
from modes.common import configured, needed

FLAGS = flags.FLAGS

# Published weights whose scores are sigmoids. Source: the official README, of its release of July
# 2021. "imagenet21k-ft1k" was fine-tuned with softmax; of a file nobody knows, so the flags say.
_SIGMOID_WEIGHTS = ("imagenet21k",)


@dataclasses.dataclass(frozen=True)
class Trained:
    """What eval, infer and export work on. `class_names` is empty where nobody knows them."""

    config: hparams.Config
    class_names: tuple[str, ...]
    model: Any
    loaded: Any  # LoadReport
    strategy: Any


def trained() -> Trained:
    """Builds the network that the flags name, and loads its weights.

    Raises: UserError if neither or both of --model_dir and --weights are given, or what they
    name does not fit the other flags.
    """
    if FLAGS.weights and FLAGS.model_dir:
        raise UserError("--model_dir and --weights both name weights; drop one")
    if FLAGS.weights:
        return _from_weights()
    needed("model_dir")
    if FLAGS.labels:
        raise UserError("a run has its own labels.txt; drop --labels")
    return _from_run()


def _from_run() -> Trained:
    import_tensorflow()
    from efficientnetv2.network.model import build_from_config
    from efficientnetv2.training import run_dir
    from efficientnetv2.training.distribute import make_strategy
    from efficientnetv2.weights.load import load_weights

    config, class_names = run_dir.open_run(FLAGS.model_dir)
    name = run_dir.model_name(FLAGS.model_dir)
    saved = {"model_name": name, "dataset_cfg": hparams.dataset_cfg_of(config)}
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
    source = FLAGS.model_dir
    if FLAGS.checkpoint == "best":
        source = os.path.join(source, "best")
        if not os.path.isdir(source):
            raise UserError(
                f"{FLAGS.model_dir} has no best checkpoint; train with eval.best_metric and "
                "--mode=traineval, or drop --checkpoint"
            )
    with strategy.scope():
        model = build_from_config(config)
        loaded = load_weights(model, source)
    weights = "averaged weights" if loaded.used_ema else "weights"
    print(f"{weights} of step {loaded.step} from {loaded.source}", flush=True)
    return Trained(config, class_names, model, loaded, strategy)


def run_metrics(run: Trained) -> dict | None:
    """The scores of the run's last evaluation, or of its best with --checkpoint=best, and the step.

    None if there was none, or the flags ask for another size or crop than the run evaluates.
    """
    from efficientnetv2.report.history import read_history
    from efficientnetv2.training import run_dir

    saved, _ = run_dir.open_run(FLAGS.model_dir)
    changed = hparams.differing_keys(saved, run.config)
    if {"eval.isize", "data.eval_crop", "data.resize_method"} & set(changed):
        return None
    evaluations = read_history(FLAGS.model_dir, saved).evaluations
    if FLAGS.checkpoint == "best":
        evaluations = [record for record in evaluations if record["step"] == run.loaded.step]
    if not evaluations:
        return None
    return {key: v for key, v in evaluations[-1].items() if key not in ("kind", "stage")}


def _from_weights() -> Trained:
    if not FLAGS.model_name:
        raise UserError("--model_name is needed with --weights, to know the network")
    configured()  # A mistake in the flags shows before anything is downloaded.
    import_tensorflow()
    from efficientnetv2.network.model import build_from_config
    from efficientnetv2.training.distribute import make_strategy
    from efficientnetv2.weights.load import assign
    from efficientnetv2.weights.resolve import open_weights

    opened = open_weights(FLAGS.model_name, FLAGS.weights)
    brought = dict(opened.settings)
    if FLAGS.weights in _SIGMOID_WEIGHTS:
        brought["train.loss_type"] = "sigmoid"
    config = configured(weights_settings=brought)
    class_names = _class_names(opened.labels, config.data.num_classes)
    strategy = make_strategy(FLAGS.strategy, FLAGS.tpu)
    with strategy.scope():
        model = build_from_config(config)
        loaded = assign(model, opened.stored)
    print(f"{loaded.format} weights from {loaded.source}", flush=True)
    for change in loaded.adapted:
        print(f"  {change}", flush=True)
    settings = ", ".join(f"{key}={value}" for key, value in brought.items())
    print(f"  they bring {settings}" if settings else "  they bring no settings", flush=True)
    return Trained(config, class_names, model, loaded, strategy)


def _class_names(known: str | None, num_classes: int) -> tuple[str, ...]:
    """The names of --labels, else those that the weights are known to have, else none."""
    source = FLAGS.labels or known
    if source is None:
        return ()
    from efficientnetv2.datasets.labels import read_labels

    names = read_labels(source)
    if len(names) != num_classes:
        raise UserError(f"{source} names {len(names)} classes, the weights have {num_classes}")
    return names
