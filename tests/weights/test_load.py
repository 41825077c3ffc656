"""Loading a run's weights into a network."""

import pathlib
import zlib

import numpy as np
import pytest
import tensorflow as tf
import tiny_run

from efficientnetv2 import Blocks, ModelSpec, build_model, load_weights
from efficientnetv2.common.errors import UserError
from efficientnetv2.network.compat import tf_variable, var_path
from efficientnetv2.training.checkpoint import RunCheckpoint
from efficientnetv2.training.ema import WeightAverage
from efficientnetv2.training.optimizer import OfficialRMSprop

BLOCKS = (
    Blocks("fused", 1, 3, 1, 2, 8, 8),
    Blocks("mbconv", 1, 3, 2, 2, 8, 8, se_ratio=0.25),
)
SPEC = ModelSpec("two_blocks", BLOCKS, head_channels=8)
STORED = pathlib.Path(__file__).parents[1] / "data" / "checkpoints"


def make_model(classes=3, blocks=BLOCKS):
    return build_model(ModelSpec("two_blocks", blocks, head_channels=8), num_classes=classes)


def value_of(path, shape, averaged=False):
    """What a stored checkpoint holds under a path."""
    rng = np.random.default_rng(zlib.crc32(f"{path}{averaged}".encode()))
    return rng.uniform(0, 1, shape).astype(np.float32)


def save(directory, averaged=True):
    """Writes a checkpoint of step 5; `tests/data/checkpoints` was written by this."""
    model, optimizer = make_model(), OfficialRMSprop()
    optimizer.build(model.trainable_variables)
    average = WeightAverage(model, 0.9) if averaged else None
    for weight in model.weights:
        path, shape = var_path(weight), tuple(weight.shape)
        weight.assign(value_of(path, shape))
        if averaged:
            average.by_path[path].assign(value_of(path, shape, averaged=True))
    state = {f"{i}/{var_path(v)}": tf_variable(v) for i, v in enumerate(optimizer.variables)}
    return RunCheckpoint(str(directory), model, state, average, keep=3).save(5)


def numbers(model):
    return {var_path(w): tf_variable(w).numpy() for w in model.weights}


def check_values(model, averaged, but=()):
    for path, value in numbers(model).items():
        if path not in but:
            np.testing.assert_array_equal(value, value_of(path, value.shape, averaged), path)


@pytest.mark.parametrize("use_ema", [True, False])
@pytest.mark.parametrize("by_directory", [True, False])
def test_loads_all_weights_and_says_so(tmp_path, use_ema, by_directory):
    path, model = save(tmp_path), make_model()
    report = load_weights(model, str(tmp_path) if by_directory else path, use_ema=use_ema)
    check_values(model, averaged=use_ema)
    assert (report.source, report.step, report.used_ema) == (path, 5, use_ema)
    assert set(report.loaded) == set(numbers(model))
    assert report.missing == report.unexpected == report.mismatched == ()


def test_without_averages_the_weights_are_loaded(tmp_path):
    save(tmp_path, averaged=False)
    model = make_model()
    assert load_weights(model, str(tmp_path)).used_ema is False
    check_values(model, averaged=False)


def test_build_model_loads_them_too(tmp_path):
    save(tmp_path)
    check_values(build_model(SPEC, num_classes=3, weights=str(tmp_path)), averaged=True)


@pytest.mark.parametrize("generation", ["keras2", "keras3"])
def test_either_generation_reads_what_the_other_wrote(generation):
    model = make_model()
    report = load_weights(model, str(STORED / generation))
    assert report.step == 5
    check_values(model, averaged=True)


def other_classes():
    return make_model(classes=4), "of another shape .*: 2, first classifier/.*"


def fewer_blocks():
    return make_model(blocks=BLOCKS[:1]), "weights that the model lacks: 19, first blocks_1/"


def more_blocks():
    return make_model(blocks=(*BLOCKS, BLOCKS[0])), "lacks weights of the model: 10, .*blocks_2/"


@pytest.mark.parametrize("case", [other_classes, fewer_blocks, more_blocks])
def test_a_mismatch_is_a_user_error_and_nothing_is_assigned(tmp_path, case):
    save(tmp_path)
    model, message = case()
    before = numbers(model)
    with pytest.raises(UserError, match=message):
        load_weights(model, str(tmp_path))
    for path, value in numbers(model).items():
        np.testing.assert_array_equal(value, before[path])


def test_skip_mismatch_loads_the_rest_and_reports(tmp_path):
    save(tmp_path)
    model = make_model(classes=4)
    before = numbers(model)
    report = load_weights(model, str(tmp_path), skip_mismatch=True)
    assert set(report.mismatched) == {
        "classifier/kernel: (8, 3), (8, 4)",
        "classifier/bias: (3,), (4,)",
    }
    heads = {"classifier/kernel", "classifier/bias"}
    assert set(report.loaded) == set(before) - heads
    check_values(model, averaged=True, but=heads)
    for path in heads:
        np.testing.assert_array_equal(numbers(model)[path], before[path])


def test_skip_mismatch_reports_missing_and_unexpected(tmp_path):
    save(tmp_path)
    other = (Blocks("fused", 1, 3, 1, 1, 8, 8),)
    report = load_weights(make_model(blocks=other), str(tmp_path), skip_mismatch=True)
    assert report.missing == ()
    assert "blocks_0/expand_conv/kernel" in report.unexpected
    assert any(line.startswith("blocks_0/project_conv/kernel: ") for line in report.mismatched)
    more = load_weights(make_model(blocks=(*BLOCKS, *other)), str(tmp_path), skip_mismatch=True)
    assert "blocks_2/project_conv/kernel" in more.missing
    assert more.unexpected == ()


@pytest.mark.parametrize("part", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize("damage", ["short", "flipped", "missing"])
def test_a_corrupt_file_is_a_user_error_and_nothing_is_assigned(tmp_path, part, damage):
    path = save(tmp_path)
    file = pathlib.Path(f"{path}.{part}")
    content = file.read_bytes()
    file.unlink()
    if damage != "missing":
        flipped = bytes(byte ^ 255 for byte in content)
        file.write_bytes(content[:1000] if damage == "short" else flipped)
    model = make_model()
    before = numbers(model)
    with pytest.raises(UserError, match="cannot read checkpoint .*ckpt-5|no checkpoint") as error:
        load_weights(model, str(tmp_path))
    assert "\n" not in str(error.value)
    for name, value in numbers(model).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("name", ["", "ckpt-9", "no/such/folder"])
def test_no_checkpoint_is_a_user_error(tmp_path, name):
    with pytest.raises(UserError, match="no checkpoint found in"):
        load_weights(make_model(), str(tmp_path / name))


def test_a_checkpoint_of_something_else_is_a_user_error(tmp_path):
    other = tf.train.Checkpoint(variable=tf.Variable(1.0))
    path = other.write(str(tmp_path / "other"))
    with pytest.raises(UserError, match="other is no checkpoint of an EfficientNet; .*variable"):
        load_weights(make_model(), path)


def test_the_network_after_training_is_the_network_that_was_evaluated(tmp_path):
    trainer = tiny_run.make_trainer(tmp_path)
    trainer.checkpoint.save(3)
    model = tiny_run.make_model()
    load_weights(model, str(tmp_path))
    image = next(iter(tiny_run.make_examples(4).batch(4)))[0]["image"]
    with trainer.average.in_model():
        np.testing.assert_array_equal(model(image), trainer.model(image))
