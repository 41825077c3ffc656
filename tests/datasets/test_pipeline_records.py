"""Numbered records, and batches that the workers of a tf.data service make."""

import numpy as np
import pytest
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets import Source, build_dataset
from efficientnetv2.datasets.pipeline import numbered_by_step, numbered_records
from efficientnetv2.hparams import Stage, get_config

COUNT, BATCH, STEPS = 7, 4, 6
SERVICE = tf.data.experimental.service


def make_source(random_access=True):
    """Record i is an image of the colour i; an order of its own in each epoch."""
    encoded = tf.constant(
        [tf.io.encode_png(np.full([8, 8, 3], i, np.uint8)).numpy() for i in range(COUNT)]
    )

    def record_at(epoch, positions):
        return ((positions * 3 + (0 if epoch is None else epoch)) % COUNT,)

    def records(epoch=None, skip=0):
        positions = tf.data.Dataset.range(tf.cast(skip, tf.int64), COUNT)
        return positions.map(lambda position: tuple(p[0] for p in record_at(epoch, position[None])))

    return Source(
        COUNT,
        ("even", "odd"),
        records,
        load=lambda number: (encoded[number], number % 2),
        name_of=tf.strings.as_string,
        record_at=record_at if random_access else None,
    )


@pytest.mark.parametrize(("first", "end"), [(0, 7), (0, 21), (5, 9), (13, 15), (14, 14)])
def test_numbers_run_on_across_epochs(first, end):
    found = list(numbered_records(make_source(), first, end).as_numpy_iterator())
    expected = [(n, (n % COUNT * 3 + n // COUNT) % COUNT) for n in range(first, end)]
    assert found == expected


def test_by_step_are_the_same_records():
    source = make_source()
    by_step = list(numbered_by_step(source, 2, STEPS, BATCH).as_numpy_iterator())
    assert by_step == list(numbered_records(source, 2 * BATCH, STEPS * BATCH).as_numpy_iterator())
    with pytest.raises(UserError, match="--data_service needs records that can be read in any"):
        numbered_by_step(make_source(random_access=False), 0, 1, BATCH)


@pytest.fixture
def service():
    """The address of a dispatcher with two workers on loopback."""
    dispatcher = SERVICE.DispatchServer()
    address = dispatcher.target.split("://")[1]
    workers = [SERVICE.WorkerServer(SERVICE.WorkerConfig(address)) for _ in range(2)]
    yield dispatcher.target
    for server in (*workers, dispatcher):
        server._stop()


def config_of(**runtime):
    base = "data.ra_num_layers=1,data.mixup_alpha=0.5,train.batch_size=4"
    more = "".join(f",{key}={value}" for key, value in runtime.items())
    return get_config("efficientnetv2-s", "folder", base + more, data_dir="photos")


def batches(config):
    stage = Stage(0, 0, STEPS, 1.0, 16, BATCH, 10.0, 0.5, 0.1)
    dataset = build_dataset(config, "train", stage=stage, source=make_source())
    return [(x["image"], y["label"]) for x, y in dataset.as_numpy_iterator()]


def test_a_service_makes_each_batch_once_and_the_same(service):
    alone = batches(config_of())
    served = batches(config_of(**{"runtime.data_service": service}))
    assert len(served) == STEPS

    def key(batch):
        return tuple(part.tobytes() for part in batch)

    assert sorted(map(key, served)) == sorted(map(key, alone))
    assert len(set(map(key, alone))) == STEPS


def test_bad_addresses_and_skipping_are_refused():
    with pytest.raises(UserError, match="must be grpc://HOST:PORT, got 'localhost:1'"):
        batches(config_of(**{"runtime.data_service": "localhost:1"}))
    settings = {"runtime.data_service": "grpc://localhost:1", "data.on_error": "skip"}
    with pytest.raises(UserError, match="on_error=skip cannot count through --data_service"):
        batches(config_of(**settings))
