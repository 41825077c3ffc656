"""Examples -> batches. Every draw is a function of (seed, epoch, position), so any step can be the
first one, and any image of any batch can be drawn again."""

import tensorflow as tf

from datasets.augment import rand_augment
from datasets.mixup import apply_mixup, draw_mixup
from datasets.preprocess import preprocess_eval, preprocess_train
from datasets.sources import Source, open_source
from hparams import Config, Stage, UserError, with_values

_CROP, _AUGMENT, _MIXUP = range(3)  # What a seed is for; part of the seed.
_PURPOSES = 4


def build_dataset(
    config: Config,
    split: str,
    *,
    stage: Stage | None = None,
    first_step: int | None = None,
    source: Source | None = None,
) -> tf.data.Dataset:
    """Returns the batches of a training stage, or the examples of an evaluation split.

    Training (`stage` given): ({"image": uint8 [B, S, S, 3]}, {"label": float32 [B, K]}) for the
    steps from `first_step` (the stage's first by default) to the stage's end. Labels sum to 1; with
    Mixup they blend two classes. Batches run on across the ends of epochs; each epoch has every
    example once, in an order of its own.
    Evaluation (`stage` None): single ({"image": float32 [S, S, 3]}, {"label": float32 [K]}), each
    example once, in a fixed order.
    Order: shuffle, decode, crop, flip, RandAugment, batch, Mixup, prefetch. Pixels are in [0, 255];
    the model normalises.

    Raises: UserError if the data cannot be used as configured; ValueError if `first_step` is
    outside of the stage.
    Source: official pipeline; Mixup blends within the global batch.
    """
    source = source or open_source(config.data, split, config.train.seed)
    classes = len(source.class_names)
    _check_fact("data.num_classes", config.data.num_classes, classes)
    if stage is None:
        return _evaluation_examples(config, source, classes)
    step = stage.first_step if first_step is None else first_step
    if not stage.first_step <= step <= stage.end_step:
        raise ValueError(
            f"first_step must be in [{stage.first_step}, {stage.end_step}], got {step}"
        )
    return _training_batches(config, source, classes, stage, step)


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


def _evaluation_examples(config: Config, source: Source, classes: int) -> tf.data.Dataset:
    data = config.data

    def example(*record):
        image_bytes, label = source.load(*record)
        image = preprocess_eval(
            image_bytes,
            config.eval.isize,
            crop=data.eval_crop,
            resize_method=data.resize_method,
            exact=True,
        )
        return {"image": image}, {"label": tf.one_hot(label, classes)}

    return source.records(None).map(example, num_parallel_calls=tf.data.AUTOTUNE)


def _training_batches(config, source: Source, classes: int, stage: Stage, first_step: int):
    data, seed, batch = config.data, config.train.seed, stage.batch_size
    first_epoch, skip = divmod(first_step * batch, source.num_examples)
    images = (stage.end_step - first_step) * batch

    def numbered_epoch(epoch):
        records = source.records(epoch).enumerate()
        return records.map(lambda position, record: (epoch, position, record))

    def example(epoch, position, record):
        record = record if isinstance(record, tuple) else (record,)
        image_bytes, label = source.load(*record)
        image = preprocess_train(
            image_bytes,
            stage.image_size,
            draw_seed(seed, _CROP, epoch, position),
            crop_area_min=data.crop_area_min,
            resize_method=data.resize_method,
        )
        if data.augname == "randaug":
            image = rand_augment(
                image,
                draw_seed(seed, _AUGMENT, epoch, position),
                stage.ram,
                num_layers=data.ra_num_layers,
                translate_const=data.translate_const,
                cutout_const=data.cutout_const,
            )
        return image, tf.one_hot(label, classes)

    def mixed(step, batch_of_examples):
        images, labels = batch_of_examples
        if stage.mixup_alpha:
            weights = draw_mixup(batch, stage.mixup_alpha, draw_seed(seed, _MIXUP, step, 0))
            images, labels = apply_mixup(images, labels, weights)
        return {"image": images}, {"label": labels}

    epochs = tf.data.Dataset.range(first_epoch, first_epoch + images // source.num_examples + 2)
    dataset = epochs.flat_map(numbered_epoch).skip(skip).take(images)
    dataset = dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(batch, drop_remainder=True).enumerate(first_step)
    return dataset.map(mixed, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def draw_seed(seed: int, purpose: int, epoch, position) -> tf.Tensor:
    """Returns the seed, int64 [2], of one draw; no two draws of a run share one."""
    high = tf.cast(epoch, tf.int64) + ((seed * _PURPOSES + purpose) << 30)
    return tf.stack([high, tf.cast(position, tf.int64)])
