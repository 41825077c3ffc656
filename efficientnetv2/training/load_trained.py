"""Trained networks from runs or published weights, with their config, and their evaluation."""

import dataclasses
import os
from collections.abc import Mapping

import keras
import tensorflow as tf

from efficientnetv2 import datasets, hparams
from efficientnetv2.common.console import show, verbosity
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import as_path
from efficientnetv2.datasets.bad_examples import explain_reading_errors
from efficientnetv2.datasets.labels import read_labels
from efficientnetv2.hparams import Config
from efficientnetv2.network.model import build_from_config
from efficientnetv2.training import run_dir
from efficientnetv2.training.distribute import make_strategy
from efficientnetv2.training.metrics import Evaluator
from efficientnetv2.weights.load import LoadReport, assign, load_weights
from efficientnetv2.weights.resolve import open_weights

# Published weights whose scores are sigmoids. Source: official README, release of July 2021.
# "imagenet21k-ft1k" was fine-tuned with softmax. For a weights file, use an override.
_SIGMOID_WEIGHTS = ("imagenet21k",)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network with its weights and config, as returned by `load_run` and `load_pretrained`.

    Attributes:
        config: the config of the run, with overrides applied.
        class_names: the class names in label order; empty if unknown.
        model: the Keras model, [B, S, S, 3] pixels in [0, 255] -> [B, K] logits.
        loaded: the report of what was loaded and from where.
        strategy: the strategy that the model was built under.
        model_dir: the directory of the run; None for other weights.
        labels: the file with the class names; None if the weights imply them.
        checkpoint: "last" or "best".
    """

    config: Config
    class_names: tuple[str, ...]
    model: keras.Model
    loaded: LoadReport
    strategy: tf.distribute.Strategy
    model_dir: str | None = None
    labels: str | None = None
    checkpoint: str = "last"


def load_run(
    model_dir: str | os.PathLike,
    *,
    checkpoint: str = "last",
    overrides: str | Mapping = "",
    data_dir: str | os.PathLike | None = None,
    strategy: str | tf.distribute.Strategy = "auto",
    tpu: str | None = None,
    verbose: bool = False,
) -> Trained:
    """Loads the network of a run with its averaged weights (raw ones if it has no average).

    Args:
        model_dir: directory of the run.
        checkpoint: "last", or "best" by `eval.best_metric`.
        overrides: settings that differ from the run's, such as "eval.isize=320".
        data_dir: directory of the images, if it differs from the one used for training.
        strategy, tpu: see `train`.

    Raises: UserError if there is no run or no such checkpoint, or it cannot be read.

    Example:
        best = effnet.load_run("runs/photos", checkpoint="best")
        scores = effnet.evaluate(best)
    """
    if checkpoint not in ("last", "best"):
        raise UserError(f"checkpoint must be last or best, got {checkpoint!r}")
    model_dir = as_path(model_dir, "model_dir")
    with verbosity(verbose):
        config, class_names = run_dir.open_run(model_dir)
        config = hparams.with_overrides(config, overrides)
        if data_dir:
            config = hparams.with_values(config, data__data_dir=as_path(data_dir, "data_dir"))
        source = model_dir
        strategy = make_strategy(strategy, tpu)
        if checkpoint == "best":
            source = os.path.join(source, "best")
            if not os.path.isdir(source):
                raise UserError(
                    f"{model_dir} has no best checkpoint; train with eval.best_metric and "
                    "--mode=traineval, or drop --checkpoint"
                )
        with strategy.scope():
            model = build_from_config(config)
            loaded = load_weights(model, source)
        weights = "averaged weights" if loaded.used_ema else "weights"
        show(f"{weights} of step {loaded.step} from {loaded.source}")
    labels = os.path.join(model_dir, run_dir.LABELS_FILE)
    return Trained(config, class_names, model, loaded, strategy, model_dir, labels, checkpoint)


def load_pretrained(
    config: Config,
    weights: str | os.PathLike,
    *,
    labels: str | os.PathLike | None = None,
    strategy: str | tf.distribute.Strategy = "auto",
    tpu: str | None = None,
    verbose: bool = False,
) -> Trained:
    """Loads the network of a config with published weights or a weights file.

    The settings that the weights imply (image size, crop, normalization, number of classes) apply
    unless the config's overrides set them.

    Args:
        config: a config from `get_config`, which names the network.
        weights: "imagenet", "imagenet21k", "imagenet21k-ft1k", "jft", or a file.
        labels: a file with one class name per line, in class order.
        strategy, tpu: see `train`.

    Raises: UserError if the weights cannot be downloaded or read, or do not fit.

    Example:
        config = effnet.get_config("efficientnetv2-s")
        for row in effnet.predict(effnet.load_pretrained(config, "imagenet"), ["photo.jpg"]):
            print(row["top"][0]["label"])
    """
    weights = as_path(weights, "weights")
    labels = labels and as_path(labels, "labels")
    with verbosity(verbose):
        opened = open_weights(config.model.model_name, weights)
        settings = dict(opened.settings)
        if weights in _SIGMOID_WEIGHTS:
            settings["train.loss_type"] = "sigmoid"
        config = hparams.with_weights(config, settings=settings)
        class_names = _class_names(labels or opened.labels, config.data.num_classes)
        strategy = make_strategy(strategy, tpu)
        with strategy.scope():
            model = build_from_config(config)
            loaded = assign(model, opened.stored)
        show(f"{loaded.format} weights from {loaded.source}")
        for change in loaded.adapted:
            show(f"  {change}")
        text = ", ".join(f"{key}={value}" for key, value in settings.items())
        show(f"  they imply {text}" if text else "  they imply no settings")
    return Trained(config, class_names, model, loaded, strategy, labels=labels)


def as_trained(run: str | os.PathLike | Trained) -> Trained:
    """Returns `run`, loading it first if it is the directory of a run. Raises: UserError."""
    return run if isinstance(run, Trained) else load_run(as_path(run, "run"))


def evaluate(
    run: str | os.PathLike | Trained, *, split: str = "eval", verbose: bool = False
) -> dict[str, float | int]:
    """Evaluates a trained network on a split of its data.

    Args:
        run: directory of a run, or the result of `load_run` or `load_pretrained`.
        split: "eval", "minival" or "train" (without augmentation).

    Returns: "step" of the weights (None if unknown), "loss" (mean, without smoothing), "top1" and
        "top5" (fractions in [0, 1]), "examples"; for several labels per image see `Evaluator`.

    Raises: UserError if the data cannot be read, or its classes are not those of the network.

    Example:
        effnet.evaluate("runs/photos")["top1"]
    """
    with verbosity(verbose):
        run = as_trained(run)
        config = run.config
        source = datasets.open_source(config.data, split, config.train.seed)
        # Published weights are not checked: a data set may name their classes differently.
        if run.labels and run.class_names and source.class_names != run.class_names:
            raise UserError(
                f"the classes of the data are not those of {run.labels}; give the data that was "
                "trained on"
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
        bad = datasets.BadExamples(source, split, config.data)
        with explain_reading_errors([source], config.data):
            scores = evaluator(datasets.build_dataset(config, split, source=source, bad=bad))
    skipped = {f"skipped_{split}": bad.count} if bad.count else {}
    return {"step": run.loaded.step, **scores, **skipped}


def _class_names(source: str | None, num_classes: int) -> tuple[str, ...]:
    if source is None:
        return ()
    names = read_labels(source)
    if len(names) != num_classes:
        raise UserError(f"{source} names {len(names)} classes, the weights have {num_classes}")
    return names
