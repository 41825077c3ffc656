"""The names of a batch's examples."""

import dataclasses

from small_pipelines import indices, make_config, make_source, make_stage, plain_images, train

from efficientnetv2.datasets import names_of_batch


def test_the_names_are_those_of_the_batch_across_epochs():
    source = make_source(plain_images())
    stage = dataclasses.replace(make_stage(3, 9), batch_size=5, first_record=13)
    found = indices(train(make_config(), stage, source))
    for step in (3, 5, 8):
        rows = found[(step - 3) * 5 : (step - 2) * 5]
        assert names_of_batch(source, stage, step) == [str(index) for index in rows]
