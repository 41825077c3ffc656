"""TensorBoard images: the first batch of each stage, and the confusion matrix."""

import math
import os
import re
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from efficientnetv2.common.plots import INK, draw_confusion, figure_pixels, new_figure, shortened
from efficientnetv2.hparams import Stage
from efficientnetv2.network.compat import tf_variable, var_path
from efficientnetv2.training.callbacks import Callback

_IMAGES, _COLUMNS = 16, 4  # Per contact sheet.


class TensorBoardPictures(Callback):
    """Writes images to `model_dir`/tensorboard/pictures and weight norms to "norms" next to it.

    `class_names`: in label order. The norms are those of the model at each evaluation.
    """

    def __init__(self, model_dir: str, class_names: Sequence[str]):
        self.class_names = class_names
        self._directory = os.path.join(model_dir, "tensorboard")
        self._writers = {}

    def on_stage_begin(self, stage: Stage, images: np.ndarray, labels: np.ndarray) -> None:
        """Writes a contact sheet of the batch, named after the stage's number and image size."""
        title = f"stage {stage.index + 1}, {stage.image_size} px"
        sheet = draw_batch(images[:_IMAGES], labels[:_IMAGES], self.class_names, title)
        name = f"training_images/stage_{stage.index + 1}_{stage.image_size}px"
        self._picture(name, sheet, stage.first_step)

    def on_evaluate(self, step: int, stage: Stage, scores: dict, confusion) -> None:
        """Writes the confusion matrix, if there is one, and the weight norms."""
        if confusion is not None:
            figure = draw_confusion(np.asarray(confusion), self.class_names)
            self._picture("confusion_matrix", figure, step)
        if self.model is not None:
            with self._writer("norms").as_default():
                for group, norm in weight_norms(self.model).items():
                    tf.summary.scalar(f"weight_norm/{group}", norm, step=step)
            self._writer("norms").flush()

    def _picture(self, name: str, figure: Figure, step: int) -> None:
        with self._writer("pictures").as_default():
            tf.summary.image(name, figure_pixels(figure)[np.newaxis], step=step)
        self._writer("pictures").flush()

    def _writer(self, name: str):
        if name not in self._writers:
            directory = os.path.join(self._directory, name)
            self._writers[name] = tf.summary.create_file_writer(directory)
        return self._writers[name]


def draw_batch(
    images: np.ndarray, labels: np.ndarray, class_names: Sequence[str], title: str
) -> Figure:
    """Returns a contact sheet of images, each with its label.

    Shapes: uint8 [B, S, S, 3], float32 [B, K].
    """
    columns = min(_COLUMNS, len(images))
    rows = math.ceil(len(images) / columns)
    figure = new_figure(2.2 * columns, 2.4 * rows + 0.4)
    figure.suptitle(title, fontsize=11, color=INK)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.axis("off")
    for panel, image, label in zip(panels, images, labels):
        panel.imshow(image, interpolation="nearest")
        name = label_name(label, class_names)
        panel.set_title(name, fontsize=7, color=INK, parse_math=False)
    return figure


def label_name(label: np.ndarray, class_names: Sequence[str]) -> str:
    """Returns the class names of a label, with their fractions unless all are 1.

    float32 [K] -> "cat" or, if blended by Mixup, "cat 0.70 + dog 0.30"; largest first.
    """
    order = sorted(np.flatnonzero(label), key=lambda k: -label[k])
    whole = all(label[k] == 1 for k in order)
    names = [shortened(class_names[k]) for k in order]
    parts = names if whole else [f"{name} {label[k]:.2f}" for name, k in zip(names, order)]
    return "\n+ ".join(parts) or "no label"


def weight_norms(model: keras.Model) -> dict[str, float]:
    """Returns the L2 norm of the trainable weights of each block, by block name.

    Stem and head are separate groups; in other networks each layer is a group.
    """
    squares = {}
    for weight in model.trainable_weights:
        group = re.sub(r"^(stem|head)_(conv|bn)$", r"\1", var_path(weight).split("/")[0])
        square = tf.reduce_sum(tf.square(tf.cast(tf_variable(weight), tf.float32)))
        squares[group] = squares.get(group, 0.0) + square
    return {group: float(tf.sqrt(square)) for group, square in squares.items()}
