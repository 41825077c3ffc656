"""The `train` call: trains or resumes a run, evaluates it and returns the last scores."""

import os
from collections.abc import Iterator, Sequence

import tensorflow as tf

from efficientnetv2 import datasets, hparams
from efficientnetv2.common.console import show, verbosity
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import as_path
from efficientnetv2.datasets.bad_examples import explain_reading_errors
from efficientnetv2.hparams import Config, Stage
from efficientnetv2.training import run_dir
from efficientnetv2.training.callbacks import Callback
from efficientnetv2.training.distribute import Workers, make_strategy
from efficientnetv2.training.environment import save_environment
from efficientnetv2.training.losses import class_weights_of
from efficientnetv2.training.optimizer import effective_jit
from efficientnetv2.training.starting_weights import StartingWeights, open_starting_weights
from efficientnetv2.training.tensorboard import TensorBoardPictures
from efficientnetv2.training.trainer import Trainer


def train(
    config: Config,
    model_dir: str | os.PathLike,
    *,
    weights: str | os.PathLike | None = None,
    evaluate: bool = True,
    callbacks: Sequence[Callback] = (),
    strategy: str | tf.distribute.Strategy = "auto",
    tpu: str | None = None,
    allow_changes: bool = False,
    verbose: bool = False,
) -> dict[str, float | int]:
    """Trains the run in `model_dir` to completion, from the start or from its last checkpoint.

    The same call, or the same command line, resumes a run that was stopped or killed, with
    bit-identical results. `--mode=traineval` makes this call, `--mode=train` makes it with
    `evaluate=False`.

    Args:
        config: from `get_config`.
        model_dir: directory of the run: checkpoints, config.yaml, labels.txt, metrics.jsonl,
            tensorboard/.
        weights: starting weights: the name of published weights ("imagenet", ...), another run, or
            a weights file; fine-tuning defaults then apply. Same as `train.ft_init_ckpt`.
        evaluate: evaluate every `eval.every_epochs` on the `minival` split, at the end on `eval`.
        callbacks: see `Callback`.
        strategy: "auto", "one", "mirrored", "multiworker" (with TF_CONFIG), "tpu", or a
            `tf.distribute.Strategy`; call this before any other TensorFlow operation for a TPU.
        tpu: name or address of the TPU, with strategy="tpu".
        allow_changes: resume a run with settings that differ from its own.
        verbose: print stages, settings and progress as the command line does.

    Returns:
        "step", then the scores of the averaged weights on the `eval` split: "loss", "top1", "top5"
        (fractions in [0, 1]), "examples"; without an evaluation, the last record of metrics.jsonl.
        "skipped_SPLIT" counts unreadable examples, with `data.on_error=skip`.

    Raises:
        UserError: a one-line message, for invalid settings or data, a NaN loss or a full disk.
        TrainingStopped: after SIGTERM or Ctrl-C, once all is saved; the same call resumes the run.

    Example:
        config = effnet.get_config("efficientnetv2-s", "folder", data_dir="photos")
        scores = effnet.train(config, "runs/photos", weights="imagenet", verbose=True)
    """
    model_dir = as_path(model_dir, "model_dir")
    with verbosity(verbose):
        if weights is not None:
            config = hparams.with_weights(config, as_path(weights, "weights"))
        strategy = make_strategy(strategy, tpu)  # First: a TPU must be found before any operation.
        workers = Workers(strategy)
        with workers.lost_told(), verbosity(verbose and workers.is_chief):
            return _train(config, model_dir, evaluate, callbacks, workers, allow_changes)


def plan(config: Config, *, evaluate: bool = True) -> list[Stage]:
    """Returns the stages that `train` would run, without training; the data is opened and counted.

    Each stage has its `epochs`, `steps`, `image_size` in pixels, `batch_size`, `ram` (magnitude),
    `mixup_alpha` and `dropout_rate`; `hparams.stage_table(stages)` prints them.

    Raises: UserError as `train` does.

    Example:
        print(effnet.stage_table(effnet.plan(config)))
    """
    config, _ = _with_starting_weights(config)
    config, _ = _with_data(config, evaluate)
    return hparams.make_stages(config)


def _train(config, model_dir, evaluate, callbacks, workers: Workers, allow_changes) -> dict:
    """Trains this worker's part of a run."""
    config, start = _with_starting_weights(config)
    config, sources = _with_data(config, evaluate)
    stages = hparams.make_stages(config)
    show(hparams.stage_table(stages))
    for line in _effective_settings(config, workers.strategy, evaluate):
        show(line)
    source = sources["train"]
    callbacks = [TensorBoardPictures(model_dir, source.class_names), *callbacks]
    run = (model_dir, config, source.class_names)
    run_dir.check_run(*run, allow_changes=allow_changes)
    trainer = Trainer(
        config,
        stages,
        model_dir,
        workers.strategy,
        class_weights=_class_weights(config, source),
        initialize=start and (lambda model: show(f"starting from {start(model)}")),
        callbacks=callbacks,
        describe_batch=lambda stage, step: datasets.names_of_batch(source, stage, step),
    )
    if workers.is_chief:  # Not earlier: settings that no network supports must not start a run.
        run_dir.start_run(*run)
        save_environment(model_dir)
        for callback in callbacks:
            callback.set_model(trainer.model)
    bad = {s: datasets.BadExamples(source, s, config.data) for s, source in sources.items()}

    def dataset(split, **more):
        return datasets.build_dataset(config, split, source=sources[split], bad=bad[split], **more)

    def batches(stage, first_step):
        return dataset("train", stage=stage, first_step=first_step, shard=workers.shard)

    with explain_reading_errors(sources.values(), config.data, trainer.first_record):
        result = trainer.train(batches, (lambda: dataset("minival")) if evaluate else None)
        if "eval" in sources:
            result = trainer.evaluate(dataset("eval"))
    skipped = {f"skipped_{split}": one.count for split, one in bad.items() if one.count}
    result = {"step": trainer.step, **result, **skipped}
    if workers.is_chief:
        for callback in callbacks:
            callback.on_train_end(result)
    return result


def _with_starting_weights(config: Config) -> tuple[Config, StartingWeights | None]:
    """Opens `train.ft_init_ckpt`; the returned config has the settings that it implies."""
    if config.train.ft_init_ckpt is None:
        return config, None
    name = config.model.model_name
    start = open_starting_weights(name, config.train.ft_init_ckpt, config.train.ft_init_ema)
    return hparams.with_weights(config, settings=start.settings), start


def _with_data(config: Config, evaluate: bool) -> tuple[Config, dict]:
    """Opens the splits of a run; the returned config has the numbers of images and classes."""
    splits = ["train", "minival", "eval"] if evaluate else ["train"]
    if not config.eval.at_end:
        splits = [split for split in splits if split != "eval"]
    sources = {s: datasets.open_source(config.data, s, config.train.seed) for s in splits}
    return datasets.with_source_facts(config, sources), sources


def _effective_settings(config: Config, strategy, evaluate: bool) -> Iterator[str]:
    """Yields lines with the effective values of settings that the config leaves open."""
    replicas = strategy.num_replicas_in_sync
    settings = [
        f"{replicas} replicas" if replicas > 1 else "1 device",
        config.train.precision,
        f"XLA {'on' if effective_jit(config, strategy) else 'off'}",
        config.train.optimizer,
    ]
    if config.freezes_batch_norm:
        settings.append("BatchNorm frozen")
    yield ", ".join(settings)
    if config.eval.best_metric and not evaluate:
        yield "no best weights are kept: --mode=train evaluates nothing, traineval does"


def _class_weights(config: Config, source) -> tuple[float, ...] | None:
    """Returns the class weights for `data.class_balance=loss`, else None.

    Raises: UserError if the source does not state the number of examples per class, or one is 0.
    """
    if config.data.class_balance != "loss":
        return None
    if source.class_counts is None:
        raise UserError(
            "data.class_balance=loss needs the number of examples of each class, which data of "
            f"data.ds_name={config.data.ds_name} does not state; folder and csv do, and TFRecords "
            "that --mode=prepare wrote"
        )
    return class_weights_of(source.class_counts, source.class_names)
