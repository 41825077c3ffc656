"""What is wrong with an example is found and named, in files and in records."""

import types

import broken_files
import pytest
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets import open_source
from efficientnetv2.datasets.bad_examples import explain_reading_errors, find_fault, find_unreadable
from efficientnetv2.datasets.sources.files import make_indexed_source
from efficientnetv2.datasets.sources.source import Source
from efficientnetv2.hparams import DataConfig

LIMIT = 10**8
CONFIG = DataConfig(ds_name="folder")


@pytest.fixture
def folder(tmp_path):
    broken_files.make_photos(tmp_path)
    return tmp_path


def sources(folder):
    data = DataConfig(ds_name="folder", data_dir=str(folder))
    return [open_source(data, split, seed=0) for split in ("train", "eval")]


def memory_source(contents):
    """A source whose records hold the images."""
    contents = tf.constant(contents)

    def records(epoch, skip=0):
        order = tf.range(tf.size(contents), dtype=tf.int64)[:: -1 if epoch is not None else 1]
        return tf.data.Dataset.from_tensor_slices((tf.gather(contents, order), order)).skip(skip)

    return Source(
        len(contents),
        ("a", "b"),
        records,
        lambda image, number: (image, tf.constant(0, tf.int64)),
        lambda image, number: tf.strings.join(["records, number ", tf.strings.as_string(number)]),
    )


def test_nothing_is_found_in_good_data(folder):
    assert find_unreadable(sources(folder), max_pixels=LIMIT) is None


@pytest.mark.parametrize("fault", broken_files.FAULTS)
def test_the_fault_is_found_and_named(folder, fault):
    ending, content, kind, word = broken_files.FAULTS[fault]
    path = folder / "val/a" / f"x{ending}"
    broken_files.write(path, content)
    found = find_unreadable(sources(folder), max_pixels=LIMIT)
    assert found.name == str(path) and found.fault.kind == kind
    assert word in found.fault.reason and len(found.fault.reason.splitlines()) == 1
    with (
        pytest.raises(UserError, match="cannot read .*/x.*data.on_error=skip") as caught,
        explain_reading_errors(sources(folder), CONFIG),
    ):
        raise tf.errors.InvalidArgumentError(None, None, "inside tf.data")
    assert f"{path}: " in str(caught.value) and word in str(caught.value)


@pytest.mark.parametrize("harmless", broken_files.HARMLESS)
def test_what_is_harmless_is_read(folder, harmless):
    ending, content, _ = broken_files.HARMLESS[harmless]
    (folder / "train/a" / f"x{ending}").write_bytes(content)
    assert find_unreadable(sources(folder), max_pixels=LIMIT) is None


def test_records_are_named_too():
    source = memory_source([broken_files.GOLDFISH, b"no image"])
    assert find_unreadable([source]).name == "records, number 1"


def test_the_search_begins_where_the_run_was():
    names = [f"bad {number}" for number in range(10)]
    source = make_indexed_source(["/gone/" + name for name in names], [0, 1] * 5, "ab", seed=3)
    order = [record[0].numpy().decode() for record in source.records(tf.constant(2, tf.int64))]
    for place in (0, 4, 9):
        assert find_unreadable([source], first_number=20 + place).name == order[place]
    assert find_unreadable([source]).name == "/gone/bad 0"


def test_the_search_goes_on_at_the_beginning():
    source = memory_source([broken_files.GOLDFISH] * 3 + [b"no image"])
    found = find_unreadable([source], first_number=4 + 2)  # Epochs run backwards here.
    assert found.name == "records, number 3"


def test_records_that_break_off_are_told():
    good = memory_source([broken_files.GOLDFISH] * 3)

    def records(epoch, skip=0):
        def check(image, number):
            return tf.debugging.check_numerics(1 / tf.cast(1 - number, tf.float32), "data loss")

        broken = good.records(epoch).filter(lambda *record: check(*record) < 9)
        return broken.apply(tf.data.experimental.assert_cardinality(3)).skip(skip)

    source = types.SimpleNamespace(
        records=records, load=good.load, name_of=good.name_of, num_examples=3
    )
    found = find_unreadable([source])
    assert found.fault.kind == "broken record" and "data loss" in found.fault.reason


def test_other_errors_stay_as_they_are(folder):
    error = tf.errors.InvalidArgumentError(None, None, "shapes differ")
    with (
        pytest.raises(tf.errors.InvalidArgumentError, match="shapes differ"),
        explain_reading_errors(sources(folder), CONFIG),
    ):
        raise error


def test_larger_images_than_are_allowed_are_told(folder):
    config = DataConfig(ds_name="folder", max_pixels=100)
    with (
        pytest.raises(UserError, match="50 x 40 pixels, more than data.max_pixels=100"),
        explain_reading_errors(sources(folder), config),
    ):
        raise tf.errors.InvalidArgumentError(None, None, "inside tf.data")


def test_no_limit_finds_no_fault():
    source = memory_source([broken_files.GOLDFISH])
    (record,) = source.records(None)
    assert find_fault(source, record) is None
    assert find_fault(source, record, max_pixels=9).kind == "too large"
