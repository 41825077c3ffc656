"""What TensorBoard is given, read back from its files."""

import io

import numpy as np
import pytest
import tensorflow as tf
import tiny_run
from PIL import Image

from efficientnetv2 import hparams
from efficientnetv2.network.compat import tf_variable
from efficientnetv2.training.tensorboard import (
    TensorBoardPictures,
    draw_batch,
    label_name,
    weight_norms,
)

NAMES = tuple(f"class {k}" for k in range(tiny_run.CLASSES))
STAGES = hparams.make_stages(tiny_run.make_config())


def events(folder):
    """{(tag, step): value} of all events, images as what is in them."""
    found = {}
    for path in sorted(folder.glob("events*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                found[value.tag, event.step] = tf.make_ndarray(value.tensor)
    return found


def pixels(image):
    """A summary of an image is its width, its height and the file."""
    picture = Image.open(io.BytesIO(image[2]))
    assert (int(image[0]), int(image[1])) == picture.size
    return np.asarray(picture)


def batch(stage, rows=5):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (rows, stage.image_size, stage.image_size, 3), dtype=np.uint8)
    return images, np.eye(tiny_run.CLASSES, dtype=np.float32)[:rows]


def test_a_sheet_of_each_stage(tmp_path):
    pictures = TensorBoardPictures(str(tmp_path), NAMES)
    for stage in STAGES[:2]:
        pictures.on_stage_begin(stage, *batch(stage))
    found = events(tmp_path / "tensorboard" / "pictures")
    assert list(found) == [
        ("training_images/stage_1_17px", 0),
        ("training_images/stage_2_22px", 3),
    ]
    for image in found.values():
        assert pixels(image).std() > 20


def test_the_sheet_shows_images_with_their_labels():
    images, labels = batch(STAGES[0])
    labels[1] = 0.25 * labels[1] + 0.75 * labels[2]
    figure = draw_batch(images, labels, NAMES, "stage 1")
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 5
    for axes, image in zip(shown, images):
        np.testing.assert_array_equal(axes.images[0].get_array(), image)
    assert shown[0].get_title() == "class 0"
    assert shown[1].get_title() == "class 2 0.75\n+ class 1 0.25"


@pytest.mark.parametrize(
    "label, name",
    [
        ([0, 1, 0], "b$x$"),
        ([0.3, 0, 0.7], "c 0.70\n+ a 0.30"),
        ([1, 0, 1], "a\n+ c"),
        ([0, 0, 0], "no label"),
    ],
)
def test_the_name_of_a_label(label, name):
    assert label_name(np.array(label, np.float32), ("a", "b$x$", "c")) == name


def test_names_in_any_script_and_with_dollars_are_drawn(tmp_path):
    """matplotlib warns of letters that its font lacks, and reads mathematics between dollars."""
    names = ("猫", r"$\frac$", *NAMES[2:])
    pictures = TensorBoardPictures(str(tmp_path), names)
    pictures.on_stage_begin(STAGES[0], *batch(STAGES[0]))
    pictures.on_evaluate(3, STAGES[0], {}, np.eye(tiny_run.CLASSES, dtype=np.int64))
    assert len(events(tmp_path / "tensorboard" / "pictures")) == 2


def test_the_matrix_and_the_norms_after_each_evaluation(tmp_path):
    pictures = TensorBoardPictures(str(tmp_path), NAMES)
    right = np.eye(tiny_run.CLASSES, dtype=np.int64)
    pictures.on_evaluate(3, STAGES[0], {"top1": 1.0}, right)
    assert not (tmp_path / "tensorboard" / "norms").exists()
    model = tiny_run.make_model()
    pictures.set_model(model)
    pictures.on_evaluate(6, STAGES[1], {"top1": 0.0}, right[::-1])
    pictures.on_evaluate(9, STAGES[2], {"hit_at_1": 0.0}, None)
    found = events(tmp_path / "tensorboard" / "pictures")
    assert list(found) == [("confusion_matrix", 3), ("confusion_matrix", 6)]
    first, second = (pixels(image) for image in found.values())
    assert not np.array_equal(first, second)
    norms = events(tmp_path / "tensorboard" / "norms")
    groups = ("stem", "blocks_0", "blocks_1", "head", "classifier")
    assert list(norms) == [(f"weight_norm/{group}", step) for step in (6, 9) for group in groups]


def test_the_norms_are_those_of_the_weights():
    model = tiny_run.make_model()
    norms = weight_norms(model)
    kernel = tf_variable(model.get_layer("classifier").kernel).numpy()
    assert norms["classifier"] == pytest.approx(np.linalg.norm(kernel), rel=1e-5)
    everything = [tf_variable(w).numpy().ravel() for w in model.trainable_weights]
    total = np.linalg.norm(np.concatenate(everything))
    assert np.linalg.norm(list(norms.values())) == pytest.approx(total, rel=1e-5)
