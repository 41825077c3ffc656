"""The pipeline of stages with a batch of their own, and of sizes drawn for each step."""

import dataclasses

import numpy as np
import pytest
from small_pipelines import (
    EXAMPLES,
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

from efficientnetv2.datasets.pipeline import numbered_by_step, numbered_records
from efficientnetv2.hparams import make_stages, with_overrides


def test_stages_with_batches_of_their_own_read_on_where_the_one_before_ended():
    first = make_stage(0, 3)
    second = dataclasses.replace(make_stage(3, 9), index=1, batch_size=3, first_record=12)
    config, source = make_config(), make_source(plain_images())
    found = [index for stage in (first, second) for index in indices(train(config, stage, source))]
    assert len(found) == 3 * 4 + 6 * 3
    for epoch in range(len(found) // EXAMPLES):
        assert sorted(found[epoch * EXAMPLES : (epoch + 1) * EXAMPLES]) == list(range(EXAMPLES))
    whole = train(config, dataclasses.replace(make_stage(0, 8)), source)
    assert found == indices(whole)[: len(found)]  # The order does not depend on the batches.


def test_any_step_of_such_a_stage_can_be_the_first_one():
    stage = dataclasses.replace(make_stage(3, 9), batch_size=3, first_record=13)
    config = make_config("data.augname=randaug,data.mixup_alpha=0.3")
    stage = dataclasses.replace(stage, mixup_alpha=0.3)
    source = make_source(busy_images())
    resumed = batches(train(config, stage, source, first_step=6))
    assert_same(resumed, batches(train(config, stage, source))[3:])


@pytest.mark.parametrize("offset", [0, 5, -6])
def test_by_step_reads_the_records_of_an_offset(offset):
    source = make_source(plain_images())
    by_step = list(numbered_by_step(source, 2, 7, 3, offset).as_numpy_iterator())
    in_turn = numbered_records(source, offset + 6, offset + 21)
    assert by_step == list(in_turn.as_numpy_iterator())


def test_variants_share_out_the_steps_and_give_what_one_size_would():
    more = (
        "train.schedule=random,train.stages=3,data.ibase=10,train.isize=20,train.epochs=6,"
        "data.splits.train.num_images=11,data.augname=null"
    )
    config = with_overrides(make_config(), more)
    (stage,) = make_stages(config)
    assert [v.image_size for v in stage.variants] == [10, 15, 20]
    source = make_source(busy_images())
    found = {v.image_size: batches(train(config, v, source)) for v in stage.variants}
    assert sum(map(len, found.values())) == stage.steps == 16
    for variant in stage.variants:
        whole = batches(train(config, dataclasses.replace(variant, draw=None), source))
        steps = [s for s in range(stage.end_step) if stage.variant_at(s) is variant]
        assert 0 < len(steps) < stage.steps
        assert_same(found[variant.image_size], [whole[step] for step in steps])
        assert {images.shape[1] for images, _ in found[variant.image_size]} == {variant.image_size}
        resumed = batches(train(config, variant, source, first_step=5))
        assert_same(resumed, [whole[step] for step in steps if step >= 5])
    assert np.ptp([len(part) for part in found.values()]) < 12
