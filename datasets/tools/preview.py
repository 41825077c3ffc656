"""Preview (`--mode=preview`): contact sheets of a few images as processed by the pipeline.

The pictures come from `build_dataset`, with a source of only the chosen examples. They are
therefore what training and evaluation get, and the same command produces the same pictures.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf
from absl import logging

from efficientnetv2.common.console import progress_bar, show, verbosity
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import as_path, make_folder
from efficientnetv2.datasets.augment.keras_cv import (
    LAYERS,
    make_extra_augment,
    parse_extra_augment,
)
from efficientnetv2.datasets.augment.policies import OP_NAMES, OP_SETS, apply_op
from efficientnetv2.datasets.bad_examples import explain_reading_errors, find_fault
from efficientnetv2.datasets.decode import decode_image
from efficientnetv2.datasets.pipeline import build_dataset, draw_seed, with_source_facts
from efficientnetv2.datasets.sources.registry import open_source
from efficientnetv2.datasets.sources.source import Source
from efficientnetv2.datasets.tools.sheets import Cell, Sheet, save_sheet
from efficientnetv2.hparams import Config, Stage, make_stages, with_values

_IMAGES = 8
_LARGE, _SMALL = 288, 112  # pixels: the size of a sheet's pictures
MAGNITUDES = (0, 5, 10, 15, 20, 25, 30)
_GALLERY_DRAWS = 6
_SHOWN_LABELS = 3
_LEAST_WEIGHT = 0.005  # minimum of a label that is shown, with two digits


def preview(config: Config, output_dir: str | os.PathLike, *, verbose: bool = False) -> dict:
    """Draws PNG sheets of the first training images: the batches of each stage, each operation.

    Args:
        config: from `get_config`.
        output_dir: folder for stages.png, evaluation.png, ops_*.png and keras_cv.png.
        verbose: print the name of each file, and show a progress bar.

    Returns: {"files": paths, "images": number of images, "stages": number of stages}.

    Raises: UserError if the data cannot be read, or a file cannot be written.

    Example:
        effnet.preview(effnet.get_config("efficientnetv2-s", "folder", data_dir="photos"), "sheets")
    """
    output_dir = as_path(output_dir, "output_dir")
    source = open_source(config.data, "train", config.train.seed)
    config = with_source_facts(config, {"train": source})
    # Magnitudes do not depend on the batch size, which may exceed a small data set.
    batch = min(config.train.batch_size, source.num_examples)
    stages = make_stages(with_values(config, train__batch_size=batch))
    if config.data.extra_augment:
        parse_extra_augment(config.data.extra_augment)  # Raises before anything is drawn.
    make_folder(output_dir)
    config = with_values(config, runtime__data_service=None)  # Not needed for a few images.
    few = chosen(config, source, _IMAGES)
    size = config.train_size

    def bar(names):
        return progress_bar(iterable=names, desc="keras_cv", unit="layers")

    sheets = {
        "stages": (lambda: stage_sheet(config, stages, few), _LARGE),
        "evaluation": (lambda: evaluation_sheet(config, few), _LARGE),
    }
    for op_set in OP_SETS:
        sheet = functools.partial(op_sheet, config, size, op_set, few)
        sheets[f"ops_{op_set}"] = (sheet, _SMALL)
    sheets["keras_cv"] = (lambda: gallery_sheet(config, size, few, bar), _SMALL)
    files = []
    with verbosity(verbose), explain_reading_errors([few], config.data):
        for name, (sheet, cell_size) in sheets.items():
            path = tf.io.gfile.join(output_dir, f"{name}.png")
            show(f"drawing {path}", stderr=True)
            save_sheet(sheet(), path, cell_size=cell_size)
            show(f"sheet  {path}")
            files.append(path)
    return {"files": files, "images": few.num_examples, "stages": len(stages)}


def chosen(config: Config, source: Source, count: int) -> Source:
    """Returns a source of the first `count` examples of the source's first epoch, in their order.

    With `data.on_error=skip` these are the first good ones; bad ones are logged. Only for a few
    images: the records before the last one are read again in each epoch.

    Raises: UserError if all are bad.
    """
    first_epoch = tf.constant(0, tf.int64)
    positions = list(range(min(count, source.num_examples)))
    if config.data.on_error == "skip":
        good = _good_positions(source, first_epoch, config.data.max_pixels)
        positions = list(itertools.islice(good, count))
    if not positions:
        raise UserError("none of the examples can be read; --mode=check_data says why")

    def records(epoch, skip=0) -> tf.data.Dataset:
        del epoch
        numbered = source.records(first_epoch, 0).take(positions[-1] + 1).enumerate()
        wanted = numbered.filter(lambda position, _: tf.reduce_any(position == positions))
        return wanted.map(lambda _, record: record).skip(skip)

    return dataclasses.replace(source, num_examples=len(positions), records=records, record_at=None)


def _good_positions(source: Source, epoch: tf.Tensor, max_pixels: int) -> Iterator[int]:
    for position, record in enumerate(source.records(epoch, 0)):
        fault = find_fault(source, record, max_pixels)
        if fault is None:
            yield position
        else:
            name = source.name_of(*record).numpy().decode()
            logging.warning("preview: skips %s: %s", name, fault.reason)


def stage_sheet(config: Config, stages: tuple[Stage, ...], source: Source) -> Sheet:
    """Returns a sheet of the images as evaluated, and as each stage feeds them to the network.

    A stage's images are one batch, in which Mixup and CutMix blend them. Source: paper, Figure 5,
    for the user's data.
    """
    size, count = config.eval.isize, source.num_examples
    heads = [f"original,\nas evaluated\n{size} px"]
    columns = [[_labelled(image, label, source) for image, label in _evaluated(config, source)]]
    for stage in stages:
        # One step with a batch of all images; a different step per stage, so that crops differ.
        only = dataclasses.replace(
            stage, batch_size=count, first_step=stage.index, end_step=stage.index + 1
        )
        images, labels = next(
            iter(build_dataset(config, "train", stage=only, source=source).as_numpy_iterator())
        )
        pairs = zip(images["image"], labels["label"])
        columns.append([_labelled(image, label, source) for image, label in pairs])
        heads.append(
            f"stage {stage.index + 1} of {len(stages)}\n{stage.image_size} px\n"
            f"magnitude {stage.ram:.3g}\nMixup {stage.mixup_alpha:.3g}\n"
            f"CutMix {stage.cutmix_alpha:.3g}\ndropout {stage.dropout_rate:.3g}"
        )
    return Sheet(
        f"What each stage feeds {config.model.model_name}",
        f"{_augmentation(config)}. Pictures at their sizes relative to each other; "
        "weights of labels where they are blended.",
        heads,
        list(zip(*columns)),
    )


def _augmentation(config: Config) -> str:
    data = config.data
    words = [f"data.augname={data.augname or 'null'}"]
    if data.augname:
        words.append(f"data.op_set={data.op_set}")
    if data.extra_augment:
        words.append(f"data.extra_augment={data.extra_augment}")
    return ", ".join(words)


def op_sheet(config: Config, size: int, op_set: str, source: Source) -> Sheet:
    """Returns a sheet of a set's RandAugment operations at MAGNITUDES, on the first image.

    Args:
        size: size of the image in pixels; in the official set, it determines what share of the
            image 100 pixels are.
    """
    image = next(_evaluated(config, source, size))[0]
    data = config.data
    consts = {"translate_const": data.translate_const, "cutout_const": data.cutout_const}
    consts = {key: value for key, value in consts.items() if value is not None}
    rows = [
        [Cell(apply_op(name, image, m, op_set=op_set, **consts).numpy()) for m in MAGNITUDES]
        for name in OP_NAMES
    ]
    heads = [f"magnitude {MAGNITUDES[0]}", *map(str, MAGNITUDES[1:])]
    note = f"On an image of {size} pixels, in the direction that is not negated."
    return Sheet(f"Operations, data.op_set={op_set}", note, heads, rows, OP_NAMES)


def gallery_sheet(config: Config, size: int, source: Source, progress=iter) -> Sheet:
    """Returns a sheet of draws of `data.extra_augment` and of each supported layer, on one image.

    Args:
        size: size of the image in pixels.
        progress: wraps the iteration over the names, as tqdm does.
    """
    image = next(_evaluated(config, source, size))[0]
    batch = tf.data.Dataset.from_tensors(np.stack([image] * _GALLERY_DRAWS))
    text = config.data.extra_augment
    names = [*([text] if text else []), *LAYERS]
    rows = []
    for number, name in enumerate(progress(names)):
        seed, layers = draw_seed(config.train.seed, 0, number, 0), make_extra_augment(name)
        [draws] = batch.map(functools.partial(layers, seed=seed)).as_numpy_iterator()
        rows.append([Cell(picture) for picture in (image, *draws)])
    heads = ["original", *(f"draw {number + 1}" for number in range(_GALLERY_DRAWS))]
    note = f"data.extra_augment=NAME, with the arguments that it has by itself; {size} pixels."
    return Sheet("Further layers, of keras-cv", note, heads, rows, names)


def evaluation_sheet(config: Config, source: Source) -> Sheet:
    """Returns a sheet of the whole images next to what evaluation sees of them."""
    rows = []
    records = source.records(None).as_numpy_iterator()
    for record, (image, label) in zip(records, _evaluated(config, source)):
        encoded, _ = source.load(*record)
        whole = decode_image(encoded, config.data.max_pixels).numpy()
        height, width = whole.shape[:2]
        rows.append([Cell(whole, f"{width} x {height}"), _labelled(image, label, source)])
    data, size = config.data, config.eval.isize
    seen = f"evaluation\n{size} x {size} px"
    note = f"data.eval_crop={data.eval_crop}, data.resize_method={data.resize_method}"
    return Sheet("What evaluation sees", note, ["whole image", seen], _same_height(rows))


def _same_height(rows: list[list[Cell]]) -> list[list[Cell]]:
    """Reduces the larger picture of each row to the height of the smaller, to compare them."""
    found = []
    for row in rows:
        height = min(cell.image.shape[0] for cell in row)
        found.append([Cell(_of_height(cell.image, height), cell.caption) for cell in row])
    return found


def _of_height(image: np.ndarray, height: int) -> np.ndarray:
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    if (height, width) == image.shape[:2]:
        return image
    resized = tf.image.resize(image, [height, width], antialias=True)
    return tf.cast(tf.clip_by_value(resized + 0.5, 0.0, 255.0), tf.uint8).numpy()


def _evaluated(config: Config, source: Source, size: int | None = None) -> Iterator:
    """Yields (uint8 [S, S, 3], float32 [K]) of each image, from the evaluation path."""
    sized = dataclasses.replace(config.eval, isize=size or config.eval.isize)
    config = dataclasses.replace(config, eval=sized)
    for image, label in build_dataset(config, "train", source=source).as_numpy_iterator():
        pixels = np.clip(np.floor(image["image"] + 0.5), 0, 255).astype(np.uint8)
        yield pixels, label["label"]


def _labelled(image: np.ndarray, label: np.ndarray, source: Source) -> Cell:
    return Cell(image, label_text(label, source.class_names))


def label_text(label: np.ndarray, class_names: Iterable[str]) -> str:
    """Returns the class names of a label, float32 [K], one per line, the largest weight first."""
    order = [index for index in np.argsort(-label, kind="stable") if label[index] >= _LEAST_WEIGHT]
    names = list(class_names)
    parts = [names[index] for index in order[:_SHOWN_LABELS]]
    if any(label[index] <= 1 - _LEAST_WEIGHT for index in order):
        parts = [f"{label[index]:.2f} {name}" for index, name in zip(order, parts)]
    return "\n".join(parts + ["…"] * (len(order) > _SHOWN_LABELS)) or "(no label)"
