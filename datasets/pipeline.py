"""The tf.data pipeline from examples to batches.

Records are numbered: number n is position n % N of epoch n // N. Every random draw is a function of
(seed, epoch, position) or of (seed, step, row), so training can start at any step, and any image of
any batch can be reproduced.
"""

import math

import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.augment.keras_cv import make_extra_augment
from efficientnetv2.datasets.augment.mixup import mix
from efficientnetv2.datasets.augment.ops import has_cutout, noise_cutout
from efficientnetv2.datasets.augment.policies import apply_policy, policies_of
from efficientnetv2.datasets.bad_examples import BadExamples, load_group
from efficientnetv2.datasets.preprocess import preprocess_eval, preprocess_train
from efficientnetv2.datasets.sources.registry import open_source
from efficientnetv2.datasets.sources.source import Source
from efficientnetv2.hparams import Config, Stage, with_values

_CROP, _AUGMENT, _EXTRA, _CUTOUT, _MIXING = range(5)  # Purpose of a seed; part of the seed.
_PURPOSES = 8
# Pixels that are augmented together: large groups amortize the cost of a call, small ones fit in
# the cache. Measured, see docs/performance.md.
_GROUP_PIXELS = 32 * 224**2
_LARGEST_GROUP = 256  # images
_READ_TOGETHER = 64  # examples per group in an evaluation that skips bad ones


def numbered_records(source: Source, first: int, end: int) -> tf.data.Dataset:
    """Returns the records of a run in order: (number, int64 scalar; the parts of the record...).

    Args:
        source: has N examples per epoch.
        first: the first number; nothing before it is decoded.
        end: the number after the last.
    """
    first_epoch, skip = divmod(first, source.num_examples)
    end_epoch = -(-end // source.num_examples)

    def records(epoch: tf.Tensor) -> tf.data.Dataset:
        start = tf.where(epoch == first_epoch, tf.constant(skip, tf.int64), 0)
        return source.records(epoch, start)

    stream = tf.data.Dataset.range(first_epoch, end_epoch).flat_map(records)
    stream = stream.take(end - first).enumerate(first)
    return stream.map(lambda number, record: (number, *record))


def numbered_by_step(
    source: Source, first: int, end: int, batch: int, offset: int = 0
) -> tf.data.Dataset:
    """Returns the same records, but each step's batch can be built without the previous ones.

    The workers of a tf.data service can therefore divide the steps among themselves, and each batch
    is the same as on a single machine.

    Args:
        source: has random access.
        first: the first step.
        end: the step after the last.
        batch: records per step.
        offset: step s starts at record `offset + s * batch`.

    Raises: UserError if the source has no random access.
    """
    if source.record_at is None:
        raise UserError(
            "--data_service needs records that can be read in any order: a folder, CSV, or local "
            "TFRecord files; drop it, or see --mode=prepare"
        )

    def records(step: tf.Tensor) -> tf.data.Dataset:
        step_start = offset + step * batch

        def of_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
            start = epoch * source.num_examples
            begin = tf.maximum(step_start, start)
            stop = tf.minimum(step_start + batch, start + source.num_examples)
            numbers = tf.data.Dataset.range(begin, stop).batch(batch)  # Faster in batches.
            return numbers.map(lambda n: (n, *source.record_at(epoch, n - start))).unbatch()

        last = step_start + batch - 1
        epochs = tf.data.Dataset.range(
            step_start // source.num_examples, last // source.num_examples + 1
        )
        return epochs.flat_map(of_epoch)

    return tf.data.Dataset.range(first, end).flat_map(records)


def read_through_service(dataset: tf.data.Dataset, address: str, bad) -> tf.data.Dataset:
    """Builds the batches on the workers of a tf.data service, each batch once, by one worker.

    The batches arrive in the order in which they are ready.

    Args:
        dataset: the batches, from `numbered_by_step`.
        address: "grpc://HOST:PORT" of the dispatcher.
        bad: must be None, since examples skipped by workers cannot be counted.

    Raises: UserError if the address is not valid, or with `data.on_error=skip`.
    """
    if bad is not None:
        raise UserError(
            "data.on_error=skip cannot count through --data_service; take out what "
            "--mode=check_data finds, or drop one"
        )
    if not address.startswith("grpc://"):
        raise UserError(f"--data_service must be grpc://HOST:PORT, got {address!r}")
    return dataset.apply(
        tf.data.experimental.service.distribute(
            tf.data.experimental.service.ShardingPolicy.DYNAMIC, address
        )
    )


def build_dataset(
    config: Config,
    split: str,
    *,
    stage: Stage | None = None,
    first_step: int | None = None,
    source: Source | None = None,
    shard: tuple[int, int] = (0, 1),
    bad: BadExamples | None = None,
) -> tf.data.Dataset:
    """Returns the batches of a training stage, or the examples of an evaluation split.

    Training (`stage` given): ({"image": uint8 [B, S, S, 3]}, {"label": float32 [B, K]}) for the
    steps from `first_step` (the stage's first by default) to the stage's end; for a variant, only
    the steps that draw it. Labels sum to 1; with Mixup or CutMix they blend two classes.
    Multi-label: each label is 0 or 1 before blending.
    Batches continue across epoch boundaries; each epoch has every example once, in its own order.
    Evaluation (`stage` None): single ({"image": float32 [S, S, 3]}, {"label": float32 [K]}), each
    example once, in a fixed order.
    Order: shuffle, decode, crop, flip, batch, policies, Mixup, prefetch. Pixels are in [0, 255];
    the model normalizes.

    Args:
        config: the run's config; `config.runtime.data_service` is the tf.data service to use.
        split: "train", "minival" or "eval".
        stage: the stage to train.
        first_step: where to resume; nothing before it is read or decoded.
        source: the split's source, if it is already open.
        shard: (index, count) of this worker, which gets B / count rows of each batch.
        bad: counts the examples skipped by `data.on_error=skip` across calls; None: a new count.

    Raises: UserError if the data cannot be used as configured; ValueError if `first_step` is
    outside the stage.
    Source: official pipeline; Mixup blends within the global batch, or a worker's share of it.
    """
    source = source or open_source(config.data, split, config.train.seed)
    classes = len(source.class_names)
    _check_fact("data.num_classes", config.data.num_classes, classes)
    bad = None if config.data.on_error == "stop" else bad or BadExamples(source, split, config.data)
    if stage is None:
        return _evaluation_examples(config, source, classes, bad)
    step = stage.first_step if first_step is None else first_step
    if not stage.first_step <= step <= stage.end_step:
        raise ValueError(
            f"first_step must be in [{stage.first_step}, {stage.end_step}], got {step}"
        )
    return _training_batches(config, source, stage, step, shard, bad)


def with_source_facts(config: Config, sources: dict[str, Source]) -> Config:
    """Returns the config with the numbers of classes and images from the sources.

    Raises: UserError if a configured number differs from that of the source.
    """
    facts = {"data__num_classes": len(next(iter(sources.values())).class_names)}
    for split, source in sources.items():
        facts[f"data__splits__{split}__num_images"] = source.num_examples
    for key, found in facts.items():
        section = config
        for name in key.split("__"):
            section = getattr(section, name)
        _check_fact(key.replace("__", "."), section, found)
    return with_values(config, **facts)


def _check_fact(key: str, value: int | None, found: int) -> None:
    if value not in (None, found):
        raise UserError(f"{key} is set to {value}, but the data has {found}; set it to {found}")


def _evaluation_examples(config: Config, source: Source, classes: int, bad) -> tf.data.Dataset:
    data = config.data

    def example(*record):
        image_bytes, label = source.load(*record)
        image = preprocess_eval(
            image_bytes,
            config.eval.isize,
            crop=data.eval_crop,
            resize_method=data.resize_method,
            exact=True,
            max_pixels=data.max_pixels,
        )
        return {"image": image}, {"label": label_vector(label, classes)}

    records = source.records(None)
    if bad is None:
        return _in_parallel(records, example)
    groups = records.batch(_READ_TOGETHER)
    groups = _in_parallel(groups, lambda *r: load_group(r, example, r, bad, replace=False))
    return groups.unbatch()


def label_vector(label: tf.Tensor, classes: int) -> tf.Tensor:
    """Encodes labels as 0 and 1: int64 scalar, or [any number] if multi-label -> float32 [K]."""
    if label.shape.rank == 0:
        return tf.one_hot(label, classes)
    return tf.cast(tf.reduce_any(tf.one_hot(label, classes, True, False), axis=0), tf.float32)


def _in_parallel(dataset: tf.data.Dataset, function) -> tf.data.Dataset:
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE)


def _training_batches(config, source: Source, stage: Stage, first_step: int, shard, bad):
    data, seed, batch = config.data, config.train.seed, stage.batch_size
    rows = batch // shard[1]
    offset = stage.records_before(0)  # Step s starts at record `offset + s * batch`.
    if rows * shard[1] != batch:
        raise UserError(f"a batch of {batch} cannot be shared by {shard[1]} workers; change one")
    group = _group_size(rows, stage.image_size)
    policies = policies_of(data, stage.ram)
    extra = make_extra_augment(data.extra_augment) if data.extra_augment else None
    fine_tuning_cutout = has_cutout(data.augname)

    def example(number, *record):
        epoch, position = number // source.num_examples, number % source.num_examples
        image_bytes, label = source.load(*record)
        image = preprocess_train(
            image_bytes,
            stage.image_size,
            draw_seed(seed, _CROP, epoch, position),
            crop_area_min=data.crop_area_min,
            resize_method=data.resize_method,
            fast_decode=data.fast_decode,
            max_pixels=data.max_pixels,
        )
        return image, label_vector(label, len(source.class_names))

    def augmented(number, images, labels):
        step, row = (number - offset) // batch, (number - offset) % batch
        for index, policy in enumerate(policies):
            # Draws for the whole batch, so that they do not depend on how it is divided.
            draws = policy.draw(batch, draw_seed(seed, _AUGMENT, step, index))
            draws = tf.nest.map_structure(lambda values: values[row : row + group], draws)
            images = apply_policy(policy, images, draws, data.op_set)
        if extra is not None:
            images = extra(images, draw_seed(seed, _EXTRA, step, row))
        if fine_tuning_cutout:
            place = draw_seed(seed, _CUTOUT, step, row)
            images = noise_cutout(images, place, full_range=data.op_set == "corrected")
        return step, images, labels

    def mixed(step, images, labels):
        if group != rows:
            step = step[0]
            images = tf.reshape(images, [rows, *images.shape[2:]])
            labels = tf.reshape(labels, [rows, labels.shape[-1]])
        noise = draw_seed(seed, _MIXING, step, shard[0])
        images, labels = mix(images, labels, stage.mixup_alpha, stage.cutmix_alpha, noise)
        return {"image": images}, {"label": labels}

    if config.runtime.data_service:
        dataset = numbered_by_step(source, first_step, stage.end_step, batch, offset)
    else:
        first, end = (stage.records_before(step) for step in (first_step, stage.end_step))
        dataset = numbered_records(source, first, end)
    if stage.draw is not None:
        steps = range(stage.first_step, stage.end_step)
        drawn = tf.constant([stage.has_step(step) for step in steps])
        before = stage.records_before(stage.first_step)
        dataset = dataset.filter(lambda number, *record: drawn[(number - before) // batch])
    if shard[1] > 1:
        dataset = dataset.filter(lambda number, *r: (number - offset) % batch // rows == shard[0])
    dataset = _in_parallel(_groups(dataset, example, group, bad), augmented)
    if group != rows:
        dataset = dataset.batch(rows // group, drop_remainder=True)
    dataset = _in_parallel(dataset, mixed)
    if config.runtime.data_service:
        dataset = read_through_service(dataset, config.runtime.data_service, bad)
    options = tf.data.Options()
    options.threading.max_intra_op_parallelism = 1  # The images already keep all cores busy.
    return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)


def _groups(dataset: tf.data.Dataset, example, group: int, bad: BadExamples | None):
    """Groups numbered records: (number of the first, images uint8 [G, S, S, 3], labels [G, K])."""

    def load(number, *records):
        return number[0], *load_group((number, *records), example, records, bad)

    if bad is not None:
        return _in_parallel(dataset.batch(group, drop_remainder=True), load)
    dataset = _in_parallel(dataset, lambda number, *r: (number, *example(number, *r)))
    dataset = dataset.batch(group, drop_remainder=True)
    return dataset.map(lambda numbers, images, labels: (numbers[0], images, labels))


def _group_size(rows: int, image_size: int) -> int:
    """Returns how many images to augment together: the divisor of `rows` nearest to the optimum."""
    best = min(max(_GROUP_PIXELS // image_size**2, 1), _LARGEST_GROUP)
    divisors = (number for number in range(1, rows + 1) if rows % number == 0)
    return min(divisors, key=lambda divisor: abs(math.log(divisor / best)))


def draw_seed(seed: int, purpose: int, epoch, position) -> tf.Tensor:
    """Returns the seed of one draw, int64 [2]; it is unique within a run."""
    high = tf.cast(epoch, tf.int64) + ((seed * _PURPOSES + purpose) << 30)
    return tf.stack([high, tf.cast(position, tf.int64)])


def names_of_batch(source: Source, stage: Stage, step: int) -> list[str]:
    """Returns the names of the examples of one step of a stage, in the order of the batch's rows.

    A name is a path, or a file and the number of a record in it.
    """
    first = stage.records_before(step)
    records = numbered_records(source, first, first + stage.batch_size)
    names = records.map(lambda number, *record: source.name_of(*record))
    return [name.decode("utf-8", "replace") for name in names.as_numpy_iterator()]
