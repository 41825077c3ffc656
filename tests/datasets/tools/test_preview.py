"""The sheets of preview: that they show what training and evaluation get."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets import Source
from efficientnetv2.datasets.augment import keras_cv
from efficientnetv2.datasets.augment.policies import OP_NAMES, apply_op
from efficientnetv2.datasets.preprocess import preprocess_eval
from efficientnetv2.datasets.tools import preview
from efficientnetv2.hparams import get_config, make_stages

COUNT, FEW = 12, 6
CLASSES = ("ant", "bee", "cow")
SETTINGS = (
    "train.batch_size=4,train.epochs=8,train.isize=32,data.ibase=20,eval.isize=28,"
    f"data.splits.train.num_images={COUNT},train.seed=5,data.resize_method=bilinear,"
    "data.ra_num_layers=1,data.eval_crop=v2"
)


def make_config(overrides=""):
    text = f"{SETTINGS},{overrides}".rstrip(",")
    return get_config("efficientnetv2-b0", "folder", text, data_dir="photos")


def encoded_photos(bad=()):
    rng = np.random.default_rng(1)
    photos = rng.integers(0, 256, (COUNT, 4, 6, 3)).astype(np.float32)
    photos = tf.cast(tf.image.resize(photos, [40, 60], "bicubic", antialias=True), tf.uint8)
    return [b"no image" if i in bad else tf.io.encode_png(p).numpy() for i, p in enumerate(photos)]


def make_source(bad=()):
    """In memory; the first epoch begins at the end."""
    encoded = tf.constant(encoded_photos(bad))

    def records(epoch=None, skip=0):
        order = tf.range(COUNT) if epoch is None else tf.range(COUNT)[::-1]
        return tf.data.Dataset.from_tensor_slices((order,)).skip(tf.cast(skip, tf.int64))

    return Source(
        num_examples=COUNT,
        class_names=CLASSES,
        records=records,
        load=lambda index: (encoded[index], tf.cast(index % 3, tf.int64)),
        name_of=lambda index: tf.strings.format("photo {}", index),
    )


def evaluated(number, size):
    return preprocess_eval(encoded_photos()[number], size).numpy()


def test_the_first_examples_of_the_first_epoch_are_chosen_and_stay():
    few = preview.chosen(make_config(), make_source(), FEW)
    for epoch in (None, tf.constant(0, tf.int64), tf.constant(7, tf.int64)):
        records = [int(index) for (index,) in few.records(epoch, 0)]
        assert records == [11, 10, 9, 8, 7, 6]
    assert [int(index) for (index,) in few.records(None, 4)] == [7, 6]
    assert few.record_at is None
    assert preview.chosen(make_config(), make_source(), 99).num_examples == COUNT


def test_bad_examples_are_left_out_where_training_skips_them(monkeypatch):
    warnings = []
    monkeypatch.setattr(preview.logging, "warning", lambda *words: warnings.append(words))
    source, config = make_source(bad=(10, 7)), make_config("data.on_error=skip")
    few = preview.chosen(config, source, FEW)
    assert [int(index) for (index,) in few.records(None)] == [11, 9, 8, 6, 5, 4]
    assert [words[1] for words in warnings] == ["photo 10", "photo 7"]
    with pytest.raises(UserError, match="none of the examples can be read"):
        preview.chosen(config, make_source(bad=range(COUNT)), FEW)


def stages_of(overrides):
    config = make_config(overrides)
    few = preview.chosen(config, make_source(), FEW)
    return preview.stage_sheet(config, make_stages(config), few)


def test_each_row_is_one_photo_at_the_size_of_each_stage():
    # Nothing but flips is left of augmentation.
    sheet = stages_of("data.augname=null,data.crop_area_min=1,data.eval_crop=whole")
    assert [cell.image.shape[0] for cell in sheet.rows[0]] == [28, 20, 24, 28, 32]
    for number, row in zip(range(COUNT - 1, 0, -1), sheet.rows):
        original = preprocess_eval(encoded_photos()[number], 28, crop="whole")
        np.testing.assert_array_equal(row[0].image, original)
        assert {cell.caption for cell in row} == {CLASSES[number % 3]}
        same_size = row[3].image.astype(int)
        flips = [same_size, same_size[:, ::-1]]
        assert min(np.abs(row[0].image - flip).mean() for flip in flips) < 1
    assert len(sheet.rows) == FEW


def test_heads_tell_the_strength_of_each_stage():
    overrides = "train.stages=2,data.ram=20,data.op_set=corrected"
    sheet = stages_of(f"{overrides},data.mixup_alpha=0.3,data.cutmix_alpha=0.6")
    assert sheet.heads[0] == "original,\nas evaluated\n28 px"
    assert sheet.heads[1].splitlines() == [
        "stage 1 of 2",
        "20 px",
        "magnitude 5",
        "Mixup 0",
        "CutMix 0",
        "dropout 0.1",
    ]
    assert sheet.heads[2].splitlines() == [
        "stage 2 of 2",
        "32 px",
        "magnitude 20",
        "Mixup 0.3",
        "CutMix 0.6",
        "dropout 0.2",
    ]
    assert "data.op_set=corrected" in sheet.note
    blended = [row[2].caption for row in sheet.rows]
    assert any("\n0." in caption for caption in blended)
    assert not any("\n0." in row[1].caption for row in sheet.rows)


def test_stages_differ_and_the_same_config_gives_the_same_sheet():
    overrides = "train.schedule=fixed,train.stages=2,data.augname=null"
    sheet, again = stages_of(overrides), stages_of(overrides)
    stages = list(zip(*sheet.rows))[1:]
    drawn = {tuple(cell.image.tobytes() for cell in column) for column in stages}
    assert len(drawn) == 2  # Equally strong, but crops of their own.
    for row, other in zip(sheet.rows, again.rows):
        assert [cell.image.tobytes() for cell in row] == [cell.image.tobytes() for cell in other]
    other_seed = stages_of(f"{overrides},train.seed=6")
    assert other_seed.rows[0][2].image.tobytes() != sheet.rows[0][2].image.tobytes()


@pytest.mark.parametrize("op_set", ["official", "corrected"])
def test_every_operation_at_every_magnitude(op_set):
    config = make_config("data.translate_const=6,data.cutout_const=4")
    few = preview.chosen(config, make_source(), FEW)
    sheet = preview.op_sheet(config, 24, op_set, few)
    assert list(sheet.labels) == list(OP_NAMES)
    assert [len(row) for row in sheet.rows] == [7] * len(OP_NAMES)
    original = evaluated(11, 24)
    for name, column, magnitude in (("Solarize", 1, 5), ("Cutout", 2, 10), ("TranslateX", 3, 15)):
        expected = apply_op(
            name, original, magnitude, op_set=op_set, translate_const=6, cutout_const=4
        )
        shown = sheet.rows[OP_NAMES.index(name)][column].image
        np.testing.assert_array_equal(shown, expected)


def test_the_gallery_has_the_own_text_first_then_each_layer(monkeypatch):
    monkeypatch.setattr(preview, "LAYERS", {"RandomHue": {}, "Grayscale": {}})
    config = make_config("data.extra_augment=RandomCutout(height_factor=0.9)")
    few, seen = preview.chosen(config, make_source(), FEW), []
    sheet = preview.gallery_sheet(
        config, 24, few, lambda names: (seen.append(n) or n for n in names)
    )
    assert sheet.labels == ["RandomCutout(height_factor=0.9)", "RandomHue", "Grayscale"] == seen
    for row in sheet.rows:
        np.testing.assert_array_equal(row[0].image, evaluated(11, 24))
    for row in sheet.rows[:2]:
        assert len({cell.image.tobytes() for cell in row}) == 7
    grey = keras_cv.make_extra_augment("Grayscale")(evaluated(11, 24)[None], [0, 0])[0]
    np.testing.assert_array_equal(sheet.rows[2][1].image, grey)


def test_whole_images_beside_what_evaluation_sees():
    config = make_config()
    few = preview.chosen(config, make_source(), FEW)
    sheet = preview.evaluation_sheet(config, few)
    assert [row[1].caption for row in sheet.rows] == ["cow", "bee", "ant"] * 2
    assert sheet.rows[0][0].caption == "60 x 40"
    for number, (whole, seen) in zip(range(COUNT - 1, 0, -1), sheet.rows):
        np.testing.assert_array_equal(seen.image, evaluated(number, 28))
        assert whole.image.shape == (28, 42, 3)  # As high as what is seen.


def test_labels_in_words():
    def text(*weights):
        return preview.label_text(np.array(weights, np.float32), CLASSES)

    assert text(0, 1, 0) == "bee"
    assert text(0.25, 0.75, 0) == "0.75 bee\n0.25 ant"
    assert text(0.0001, 0, 0.9999) == "cow"
    assert text(0, 0, 0) == "(no label)"
    assert text(1, 0, 1) == "ant\ncow"
    names = ("a", "b", "c", "d")
    assert preview.label_text(np.ones(4, np.float32), names) == "a\nb\nc\n…"


def test_several_labels_per_image():
    encoded = tf.constant(encoded_photos())
    source = dataclasses.replace(
        make_source(),
        load=lambda index: (encoded[index], tf.range(tf.cast(index % 3, tf.int64))),
        multi_label=True,
    )
    config = make_config("data.multiclass=true,data.augname=null,train.loss_type=sigmoid")
    sheet = preview.stage_sheet(config, make_stages(config), preview.chosen(config, source, 3))
    assert [row[0].caption for row in sheet.rows] == ["ant\nbee", "ant", "(no label)"]
    assert [row[3].caption for row in sheet.rows] == ["ant\nbee", "ant", "(no label)"]
