"""Examples -> batches. Every draw is a function of (seed, epoch, position) or of (seed, step, row),
so any step can be the first one, and any image of any batch can be drawn again."""

import math

import tensorflow as tf

from datasets.augment import apply_policy
from datasets.bad_examples import BadExamples, load_group
from datasets.extra_augment import make_extra_augment
from datasets.fine_tuning import has_cutout, noise_cutout
from datasets.mixing import mix
from datasets.policies import policies_of
from datasets.preprocess import preprocess_eval, preprocess_train
from datasets.record_stream import numbered_by_step, numbered_records, read_through_service
from datasets.sources import Source, open_source
from hparams import Config, Stage, UserError, with_values

_CROP, _AUGMENT, _EXTRA, _CUTOUT, _MIXING = range(5)  # What a seed is for; part of the seed.
_PURPOSES = 8
# Pixels that are augmented together: many hide what a call costs, few stay in the cache. Measured,
# see docs/performance.md.
_GROUP_PIXELS = 32 * 224**2
_LARGEST_GROUP = 256  # images
_READ_TOGETHER = 64  # examples of an evaluation that skips bad ones


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
    steps from `first_step` (the stage's first by default) to the stage's end; of a variant, for
    those that draw it. Labels sum to 1; with Mixup or CutMix they blend two classes. Multi-label:
    each label is 0 or 1 before blending.
    Batches run on across the ends of epochs; each epoch has every example once, in an order of its
    own.
    Evaluation (`stage` None): single ({"image": float32 [S, S, 3]}, {"label": float32 [K]}), each
    example once, in a fixed order.
    Order: shuffle, decode, crop, flip, batch, policies, Mixup, prefetch. Pixels are in [0, 255];
    the model normalises.

    Args:
        config: the run; `config.runtime.data_service` names a tf.data service to read through.
        split: "train", "minival" or "eval".
        stage: the stage to train.
        first_step: where to resume; nothing before it is read or decoded.
        source: the split's source, if it is open already.
        shard: (index, count) of this worker: it gets its rows of each batch, B / count of them.
        bad: counts what `data.on_error=skip` skips, over several calls; None: a new count.

    Raises: UserError if the data cannot be used as configured; ValueError if `first_step` is
    outside of the stage.
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
    """Returns the config with the numbers of classes and images that the sources have.

    Raises: UserError if a number that was set differs from what the source has.
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
    """Shapes: int64 scalar, or int64 [any number] of a multi-label example -> float32 [K]."""
    if label.shape.rank == 0:
        return tf.one_hot(label, classes)
    return tf.cast(tf.reduce_any(tf.one_hot(label, classes, True, False), axis=0), tf.float32)


def _in_parallel(dataset: tf.data.Dataset, function) -> tf.data.Dataset:
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE)


def _training_batches(config, source: Source, stage: Stage, first_step: int, shard, bad):
    data, seed, batch = config.data, config.train.seed, stage.batch_size
    rows = batch // shard[1]
    offset = stage.records_before(0)  # Step s has the records from `offset + s * batch` on.
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
            # For all rows of the batch, so that they do not depend on how it is divided.
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
    options.threading.max_intra_op_parallelism = 1  # All cores are busy with images as it is.
    return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)


def _groups(dataset: tf.data.Dataset, example, group: int, bad: BadExamples | None):
    """Numbered records -> (the first's number, images uint8 [G, S, S, 3], labels [G, K])."""

    def load(number, *records):
        return number[0], *load_group((number, *records), example, records, bad)

    if bad is not None:
        return _in_parallel(dataset.batch(group, drop_remainder=True), load)
    dataset = _in_parallel(dataset, lambda number, *r: (number, *example(number, *r)))
    dataset = dataset.batch(group, drop_remainder=True)
    return dataset.map(lambda numbers, images, labels: (numbers[0], images, labels))


def _group_size(rows: int, image_size: int) -> int:
    """Images that are augmented together: the divisor of `rows` that is nearest to the best."""
    best = min(max(_GROUP_PIXELS // image_size**2, 1), _LARGEST_GROUP)
    divisors = (number for number in range(1, rows + 1) if rows % number == 0)
    return min(divisors, key=lambda divisor: abs(math.log(divisor / best)))


def draw_seed(seed: int, purpose: int, epoch, position) -> tf.Tensor:
    """Returns the seed, int64 [2], of one draw; no two draws of a run share one."""
    high = tf.cast(epoch, tf.int64) + ((seed * _PURPOSES + purpose) << 30)
    return tf.stack([high, tf.cast(position, tf.int64)])
