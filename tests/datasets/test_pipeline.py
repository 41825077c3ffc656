"""The pipeline: what a stage changes, each example once, what is refused or skipped."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from small_pipelines import (
    BATCH,
    CLASSES,
    EXAMPLES,
    PLAIN,
    SIZE,
    assert_same,
    batches,
    busy_images,
    indices,
    make_config,
    make_source,
    make_stage,
    plain_images,
    train,
)

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets import build_dataset, open_source, with_source_facts
from efficientnetv2.datasets.bad_examples import BadExamples
from efficientnetv2.datasets.preprocess import preprocess_eval
from efficientnetv2.hparams import make_stages, with_overrides


@pytest.fixture
def photos(tmp_path):
    """Two classes, images of different sizes, PNG and JPEG; 8 for training, 4 held out."""
    rng = np.random.default_rng(1)
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(3):
            pixels = rng.integers(0, 256, [14 + 5 * i, 22 - label, 3]).astype(np.uint8)
            (tmp_path / name / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
            (tmp_path / name / f"{i}.JPG").write_bytes(tf.io.encode_jpeg(pixels).numpy())
    return str(tmp_path)


def test_training_batches_of_a_folder(photos):
    config = make_config("data.eval_fraction=0.3,data.mixup_alpha=0.4", photos)
    dataset = train(config, make_stage(end_step=5, mixup=0.4), None)
    assert dataset.element_spec == (
        {"image": tf.TensorSpec([BATCH, SIZE, SIZE, 3], tf.uint8)},
        {"label": tf.TensorSpec([BATCH, 2], tf.float32)},
    )
    found = batches(dataset)
    assert len(found) == 5
    pixels = np.concatenate([images for images, _ in found])
    assert pixels.min() < 20 and pixels.max() > 235  # In [0, 255], not in [0, 1].
    for _, labels in found:
        assert labels.min() >= 0
        np.testing.assert_allclose(labels.sum(axis=1), 1.0, rtol=0, atol=1e-6)


def test_evaluation_examples_of_a_folder(photos):
    config = make_config("data.eval_fraction=0.3", photos)
    counts = {"train": 8, "minival": 4, "eval": 4}
    for split, count in counts.items():
        dataset = build_dataset(config, split)
        assert dataset.element_spec == (
            {"image": tf.TensorSpec([24, 24, 3], tf.float32)},
            {"label": tf.TensorSpec([2], tf.float32)},
        )
        found = batches(dataset)
        assert sum(label for _, label in found).tolist() == [count / 2, count / 2]
        assert_same(found, batches(build_dataset(config, split)))


def test_each_epoch_has_each_example_once_in_an_order_of_its_own():
    source = make_source(plain_images())
    dataset = train(make_config(), make_stage(end_step=11), source)
    epochs = np.reshape(indices(dataset), [4, EXAMPLES]).tolist()  # 11 batches of 4: 4 epochs.
    for epoch in epochs:
        assert sorted(epoch) == list(range(EXAMPLES))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_images_and_labels_stay_together():
    dataset = train(make_config(), make_stage(), make_source(plain_images()))
    for images, labels in batches(dataset):
        index = images[:, :1, :1, :1]
        assert (images == np.concatenate([index, 2 * index, 0 * index + 200], axis=-1)).all()
        np.testing.assert_array_equal(labels, np.eye(CLASSES)[index.ravel() % CLASSES])


@pytest.mark.parametrize("batch", [EXAMPLES, 2 * EXAMPLES + 3])
def test_a_batch_may_be_as_large_as_epochs(batch):
    stage = dataclasses.replace(make_stage(first_step=1, end_step=4), batch_size=batch)
    found = indices(train(make_config(), stage, make_source(plain_images())))
    assert len(found) == 3 * batch
    start = EXAMPLES * (batch // EXAMPLES + 1) - batch  # The rest of a begun epoch comes first.
    start %= EXAMPLES
    whole = found[start : start + EXAMPLES]
    assert sorted(whole) == list(range(EXAMPLES))


def test_stages_continue_the_epochs():
    config = make_config(
        f"{PLAIN},data.ibase=17,train.isize=20,train.epochs=6,train.stages=4,"
        f"data.splits.train.num_images={EXAMPLES}"
    )
    source = make_source(plain_images())
    stages = make_stages(config)
    found = [indices(train(config, stage, source)) for stage in stages]
    assert [len(part) for part in found] == [stage.steps * BATCH for stage in stages]
    positions = np.concatenate(found)  # 16 steps of 4: 5 epochs, and 9 examples of the sixth.
    for epoch in positions[: 5 * EXAMPLES].reshape([5, EXAMPLES]):
        assert sorted(epoch) == list(range(EXAMPLES))
    assert len(set(positions[5 * EXAMPLES :])) == 9


def test_a_stage_sets_size_magnitude_and_mixup():
    config = make_config(
        "data.augname=randaug,data.ra_num_layers=1,data.ram=6,data.mixup_alpha=0.9,"
        "train.isize=90,data.ibase=50"
    )
    source = make_source(busy_images())
    weak = batches(train(config, make_stage(end_step=6, ram=2.0), source))
    strong = batches(train(config, make_stage(end_step=6, ram=20.0), source))
    mixed = batches(train(config, make_stage(end_step=6, ram=2.0, mixup=0.5), source))
    large = batches(train(config, make_stage(end_step=6, size=33), source))
    assert {images.shape for images, _ in weak} == {(BATCH, SIZE, SIZE, 3)}
    assert {images.shape for images, _ in large} == {(BATCH, 33, 33, 3)}
    changed = [(some != other).any() for (some, _), (other, _) in zip(weak, strong)]
    assert all(changed)
    for (_, labels), (_, other), (_, blended) in zip(weak, strong, mixed):
        assert (labels.max(axis=1) == 1).all()
        np.testing.assert_array_equal(labels, other)
        assert (blended.max(axis=1) >= 0.5).all()
    assert any((blended.max(axis=1) < 0.99).any() for _, blended in mixed)
    # A mixed batch is the same batch, blended with its mirror image.
    for (images, _), (blended, _) in zip(weak, mixed):
        own, other = images.astype(float), images[::-1].astype(float)
        low, high = np.minimum(own, other) - 0.5, np.maximum(own, other) + 0.5
        assert ((low <= blended) & (blended <= high)).all()


def test_a_stage_sets_cutmix():
    config, source = make_config(), make_source(plain_images())
    plain = batches(train(config, make_stage(end_step=6), source))
    cut = batches(train(config, make_stage(end_step=6, cutmix=1.0), source))
    shares = []
    for (images, _), (mixed, labels) in zip(plain, cut):
        np.testing.assert_allclose(labels.sum(axis=1), 1.0, rtol=0, atol=1e-6)
        for row in range(BATCH):
            own, other = images[row, 0, 0], images[BATCH - 1 - row, 0, 0]
            from_other = (mixed[row] == other).all(axis=-1)
            assert (mixed[row][~from_other] == own).all()
            shares.append(from_other.mean())
    assert 0.1 < np.mean(shares) < 0.9


def test_multi_label_examples_have_a_label_of_any_number_of_classes():
    classes_of = [[], [0], [1, 2], [0, 1, 2], [2]] + [[1]] * (EXAMPLES - 5)
    table = tf.ragged.constant(classes_of, tf.int64)
    plain = make_source(plain_images())
    source = dataclasses.replace(
        plain, multi_label=True, load=lambda index: (plain.load(index)[0], table[index])
    )
    config = make_config(f"{PLAIN},data.multiclass=true")
    expected = [[float(c in row) for c in range(CLASSES)] for row in classes_of]
    found = [label for _, label in batches(build_dataset(config, "eval", source=source))]
    np.testing.assert_array_equal(found, expected)
    for images, labels in batches(train(config, make_stage(end_step=3), source)):
        np.testing.assert_array_equal(labels, [expected[i] for i in images[:, 0, 0, 0]])


def test_skipping_puts_another_example_of_the_group_in_the_slot(photos):
    broken = f"{photos}/cat/1.png"
    with open(broken, "rb") as file:
        content = file.read()
    with open(broken, "wb") as file:
        file.write(content[: len(content) // 2])
    settings = "data.eval_fraction=0.3,data.on_error=skip,data.max_bad_share=0.5"
    config = make_config(f"{PLAIN},{settings}", photos)
    split = next(s for s in ("train", "eval") if broken in paths_of(config, s))
    source = open_source(config.data, split, 0)
    bad = BadExamples(source, split, config.data)
    found = batches(build_dataset(config, split, source=source, bad=bad))
    assert len(found) == source.num_examples - 1 and bad.count == 1 and broken in bad.names[0]
    dataset = build_dataset(config, split, stage=make_stage(end_step=5), source=source, bad=bad)
    first = batches(dataset)
    assert len(first) == 5 and bad.count == 1
    assert_same(batches(dataset), first)
    with pytest.raises(tf.errors.InvalidArgumentError):
        batches(build_dataset(with_overrides(config, "data.on_error=stop"), split, source=source))


def paths_of(config, split):
    records = open_source(config.data, split, 0).records(None)
    return [path.decode() for path, _ in records.as_numpy_iterator()]


def test_evaluation_is_the_evaluation_path_on_each_example_in_order():
    images = busy_images()
    config = make_config("data.eval_crop=v1,data.resize_method=legacy_bicubic,eval.isize=28")
    dataset = build_dataset(config, "eval", source=make_source(images, load_delay=0.01))
    found = batches(dataset)
    assert len(found) == EXAMPLES
    for index, (image, label) in enumerate(found):
        expected = preprocess_eval(
            tf.io.encode_png(images[index]),
            28,
            crop="v1",
            resize_method="legacy_bicubic",
            exact=True,
        )
        np.testing.assert_array_equal(image, expected)
        np.testing.assert_array_equal(label, np.eye(CLASSES)[index % CLASSES])
    assert_same(batches(dataset), found)


@pytest.mark.parametrize("stage", [None, make_stage()])
def test_another_number_of_classes_is_a_users_error(stage):
    source = make_source(plain_images())
    config = make_config("data.num_classes=3")
    build_dataset(config, "train", stage=stage, source=source)
    config = make_config("data.num_classes=4")
    with pytest.raises(UserError, match="data.num_classes is set to 4, but the data has 3"):
        build_dataset(config, "train", stage=stage, source=source)


def test_source_facts_fill_in_what_is_not_set():
    sources = {"train": make_source(plain_images()), "eval": make_source(plain_images(5))}
    config = with_source_facts(make_config(), sources)
    splits = config.data.splits
    assert config.data.num_classes == CLASSES
    assert (splits.train.num_images, splits.eval.num_images) == (EXAMPLES, 5)
    assert splits.minival.num_images is None
    assert with_source_facts(config, sources) == config


@pytest.mark.parametrize(
    "key, found", [("data.num_classes", 3), ("data.splits.eval.num_images", 5)]
)
def test_source_facts_contradict_what_is_set(key, found):
    sources = {"train": make_source(plain_images()), "eval": make_source(plain_images(5))}
    config = make_config(f"{key}=7")
    message = f"^{key} is set to 7, but the data has {found}; .*{found}"
    with pytest.raises(UserError, match=message):
        with_source_facts(config, sources)
