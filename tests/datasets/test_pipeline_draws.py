"""What a batch is a function of: (config, seed, epoch, step), and nothing else."""

import numpy as np
import pytest
import tensorflow as tf
from small_pipelines import (
    BATCH,
    CLASSES,
    EXAMPLES,
    SIZE,
    STRONG,
    assert_same,
    batches,
    busy_images,
    make_config,
    make_source,
    make_stage,
    plain_images,
    train,
)

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets import pipeline
from efficientnetv2.datasets.augment.mixup import mix
from efficientnetv2.datasets.augment.policies import apply_op, rand_augment
from efficientnetv2.datasets.pipeline import draw_seed
from efficientnetv2.datasets.preprocess import preprocess_train


def test_any_step_can_be_the_first_one():
    config = make_config(f"{STRONG},data.augname=null")
    source = make_source(busy_images())
    stage = make_stage(first_step=3, end_step=10, mixup=0.3)  # Positions 12 .. 39 of epochs of 11.
    whole = batches(train(config, stage, source))
    assert len(whole) == 7
    for first_step in range(3, 11):
        rest = batches(train(config, stage, source, first_step=first_step))
        assert_same(rest, whole[first_step - 3 :])


def test_any_step_can_be_the_first_one_with_randaugment():
    config = make_config(f"{STRONG},data.ra_num_layers=1")
    source = make_source(busy_images())
    stage = make_stage(first_step=3, end_step=10, mixup=0.3)
    whole = batches(train(config, stage, source))
    for first_step in (4, 7):
        rest = batches(train(config, stage, source, first_step=first_step))
        assert_same(rest, whole[first_step - 3 :])


@pytest.mark.parametrize("first_step", [2, 11])
def test_a_first_step_outside_of_the_stage_is_refused(first_step):
    stage = make_stage(first_step=3, end_step=10)
    with pytest.raises(ValueError, match=rf"first_step must be in \[3, 10\], got {first_step}"):
        train(make_config(), stage, make_source(plain_images()), first_step=first_step)


def test_batches_depend_on_the_seed_and_on_no_global_state():
    source = make_source(busy_images())
    stage = make_stage(end_step=3, mixup=0.3)
    runs = []
    for global_seed, seed in ((1, 5), (2, 5), (1, 6)):
        tf.random.set_seed(global_seed)
        config = make_config(f"{STRONG},data.ra_num_layers=1,train.seed={seed}")
        runs.append(batches(train(config, stage, source)))
    assert_same(runs[0], runs[1])
    # The source keeps its order here, so that only the pipeline's own draws differ.
    for (images, _), (other_images, _) in zip(runs[0], runs[2]):
        assert (images != other_images).any(axis=(1, 2, 3)).all()
    different = [(labels != others).any() for (_, labels), (_, others) in zip(runs[0], runs[2])]
    assert any(different)  # Mixup's weights


def test_batches_do_not_depend_on_parallelism():
    config, stage = make_config(f"{STRONG},data.augname=null"), make_stage(end_step=6, mixup=0.3)
    serial = tf.data.Options()
    serial.threading.private_threadpool_size = 1
    expected = batches(train(config, stage, make_source(busy_images())).with_options(serial))
    # Now the examples are ready in another order than they are in.
    parallel = tf.data.Options()
    parallel.threading.private_threadpool_size = 8
    parallel.experimental_optimization.map_and_batch_fusion = False  # It would keep the order.
    slow = make_source(busy_images(), load_delay=0.02)
    assert_same(batches(train(config, stage, slow).with_options(parallel)), expected)


@pytest.mark.parametrize("augmented", [True, False])
def test_every_image_can_be_drawn_again(augmented):
    config = make_config(STRONG if augmented else f"{STRONG},data.augname=null")
    images = busy_images()
    source = make_source(images)
    stage = make_stage(first_step=2, end_step=8, ram=17.0, mixup=0.3)
    policy = rand_augment(17.0, num_layers=3, translate_const=4.0, cutout_const=9.0)
    for step, (found, labels) in enumerate(batches(train(config, stage, source)), start=2):
        drawn, own_labels = [], []
        draws = policy.draw(BATCH, draw_seed(77, pipeline._AUGMENT, step, 0))
        for row, place in enumerate(range(step * BATCH, (step + 1) * BATCH)):
            epoch, position = divmod(place, EXAMPLES)
            order = [i for (i,) in source.records(tf.constant(epoch, tf.int64)).as_numpy_iterator()]
            image = preprocess_train(
                tf.io.encode_png(images[order[position]]),
                SIZE,
                draw_seed(77, pipeline._CROP, epoch, position),
                crop_area_min=0.3,
                resize_method="legacy_bicubic",
            )
            for layer in range(3 if augmented else 0):
                op, magnitude, sign, translate, cutout = policy.actions[draws.action[row, layer]]
                image = apply_op(
                    op,
                    image,
                    magnitude,
                    sign < 0,
                    cutout_center=tf.cast(draws.center[row, layer] * SIZE, tf.int32),
                    translate_const=translate,
                    cutout_const=cutout,
                )
            drawn.append(image)
            own_labels.append(np.eye(CLASSES, dtype=np.float32)[order[position] % CLASSES])
        noise = draw_seed(77, pipeline._MIXING, step, 0)
        expected, expected_labels = mix(tf.stack(drawn), tf.stack(own_labels), 0.3, 0.0, noise)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(labels, expected_labels)


@pytest.mark.parametrize("group", [1, 2, 4])
def test_batches_do_not_depend_on_the_groups_that_are_augmented_together(group, monkeypatch):
    config = make_config(f"{STRONG},data.ra_num_layers=1")
    source, stage = make_source(busy_images()), make_stage(end_step=4, ram=17.0, mixup=0.3)
    expected = batches(train(config, stage, source))
    monkeypatch.setattr(pipeline, "_group_size", lambda rows, image_size: group)
    assert_same(batches(train(config, stage, source)), expected)


def test_groups_divide_the_batch():
    sizes = {rows: pipeline._group_size(rows, 224) for rows in (1, 16, 64, 61, 256, 4096, 5000)}
    assert sizes == {1: 1, 16: 16, 64: 32, 61: 61, 256: 32, 4096: 32, 5000: 40}
    assert [pipeline._group_size(4096, size) for size in (32, 128, 300, 4000)] == [256, 128, 16, 1]


def test_workers_share_out_the_rows_of_each_batch():
    config = make_config(f"{STRONG},data.ra_num_layers=1")
    source, stage = make_source(busy_images()), make_stage(end_step=4, ram=17.0)
    whole = batches(train(config, stage, source))
    shares = [batches(train(config, stage, source, shard=(i, 2))) for i in range(2)]
    joined = [
        tuple(np.concatenate(parts) for parts in zip(*step_shares)) for step_shares in zip(*shares)
    ]
    assert_same(joined, whole)
    with pytest.raises(UserError, match="batch of 4 cannot be shared by 3 workers"):
        train(config, stage, source, shard=(0, 3))


def test_seeds_of_draws_are_all_different():
    purposes = range(pipeline._PURPOSES)
    seeds = [
        tuple(draw_seed(seed, purpose, epoch, position).numpy().tolist())
        for seed in (0, 1, 2**30 - 1)
        for purpose in purposes
        for epoch in (0, 1, 2**30 - 1)
        for position in (0, 1, 10**9)
    ]
    assert len(set(seeds)) == len(seeds) == 216
    assert min(map(min, seeds)) >= 0  # No overflow.
    assert draw_seed(1, 0, tf.constant(2, tf.int64), 3).dtype == tf.int64
