"""`data.on_error=skip`: groups without their bad examples, and the count of these."""

import threading

import broken_files
import numpy as np
import pytest
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.bad_examples import BadExamples, load_group, user_error_in
from efficientnetv2.datasets.decode import decode_image
from efficientnetv2.datasets.sources.files import make_indexed_source
from efficientnetv2.hparams import DataConfig

GROUP = 8


@pytest.fixture(scope="module")
def good_paths(tmp_path_factory):
    """32 files, each of one colour: the i-th has 4 i in all channels."""
    folder = tmp_path_factory.mktemp("good")
    for index in range(32):
        pixels = np.full([6, 5, 3], 4 * index, np.uint8)
        (folder / f"{index}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    return [str(folder / f"{index}.png") for index in range(32)]


def make_bad(source, max_bad_share=0.5, **more):
    config = DataConfig(ds_name="folder", on_error="skip", max_bad_share=max_bad_share, **more)
    return BadExamples(source, "train", config)


def source_of(paths):
    return make_indexed_source(paths, [index % 4 for index in range(len(paths))], "abcd", 0)


def read_groups(source, bad, replace=True, load=None, threads=4):
    """Groups of (images, labels), of which each example's seed is its position."""

    def example(number, record):
        image_bytes, label = (load or source.load)(*record)
        image = tf.image.resize(decode_image(image_bytes, 10**8), [4, 4])
        return {"image": tf.cast(image, tf.uint8), "number": number}, tf.one_hot(label, 4)

    def group(numbers, records):
        return load_group((numbers, records), example, records, bad, replace=replace)

    batches = source.records(None).enumerate().batch(GROUP, drop_remainder=replace)
    return batches.map(group, num_parallel_calls=threads)


def with_broken(paths, places, broken="/gone/file.jpg"):
    return [f"{broken}{i}" if i in places else path for i, path in enumerate(paths)]


def test_a_good_group_is_as_without(good_paths):
    source = source_of(good_paths)
    bad = make_bad(source)
    groups = read_groups(source, bad)
    images, labels = groups.element_spec
    assert images["image"].shape == (GROUP, 4, 4, 3) and labels.shape == (GROUP, 4)
    inputs, labels = zip(*groups.as_numpy_iterator())
    images = np.concatenate([each["image"] for each in inputs])
    assert images[:, 0, 0, 0].tolist() == [4 * index for index in range(32)]
    assert np.concatenate([each["number"] for each in inputs]).tolist() == list(range(32))
    assert np.concatenate(labels).argmax(-1).tolist() == [index % 4 for index in range(32)]
    assert bad.count == 0


def test_the_next_good_one_takes_the_slot(good_paths):
    source = source_of(with_broken(good_paths, {0, 3, 4, 15, 30, 31}))
    expected = [*range(32)]
    expected[0], expected[3], expected[4] = 1, 5, 5
    expected[15], expected[30], expected[31] = 8, 24, 24  # Beyond the last: the first.
    for threads in (1, 4):
        bad = make_bad(source)
        found = list(read_groups(source, bad, threads=threads).as_numpy_iterator())
        numbers = np.concatenate([inputs["number"] for inputs, _ in found])
        assert numbers.tolist() == expected
        colours = np.concatenate([inputs["image"][:, 0, 0, 0] for inputs, _ in found])
        assert colours.tolist() == [4 * number for number in expected]
        labels = np.concatenate([labels for _, labels in found]).argmax(-1)
        assert labels.tolist() == [number % 4 for number in expected]
        assert bad.count == 6


def test_evaluation_leaves_bad_ones_out(good_paths):
    source = source_of([*with_broken(good_paths, {0, 3, *range(8, 16)}), good_paths[0]])
    bad = make_bad(source)
    found = list(read_groups(source, bad, replace=False).unbatch().as_numpy_iterator())
    numbers = [inputs["number"] for inputs, _ in found]
    assert numbers == [i for i in range(33) if i not in {0, 3, *range(8, 16)}]
    assert bad.count == 10


def test_a_group_without_a_good_one_is_an_error(good_paths):
    source = source_of(with_broken(good_paths, set(range(8, 16))))
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        list(read_groups(source, make_bad(source)))
    message = str(user_error_in(caught.value))
    assert "none of the 8 examples" in message and "/gone/file.jpg8" in message


@pytest.mark.parametrize("fault", broken_files.FAULTS)
def test_every_fault_is_skipped_and_logged_once(good_paths, tmp_path, fault, caplog):
    ending, content, _, word = broken_files.FAULTS[fault]
    path = tmp_path / f"x{ending}"
    broken_files.write(path, content)
    source = source_of([*good_paths[:7], str(path)])
    bad = make_bad(source)
    found = list(read_groups(source, bad).repeat(3).as_numpy_iterator())
    assert [inputs["number"].tolist() for inputs, _ in found] == [[0, 1, 2, 3, 4, 5, 6, 0]] * 3
    lines = [record.getMessage() for record in caplog.records if str(path) in record.getMessage()]
    assert len(lines) == 1 and word in lines[0] and "train" in lines[0]
    assert bad.count == 1 and str(path) in bad.names[0]


def test_too_many_bad_ones_are_an_error(good_paths):
    source = source_of(with_broken(good_paths, {1, 9, 17, 25}))
    assert len(list(read_groups(source, make_bad(source, max_bad_share=4 / 32)))) == 4
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        list(read_groups(source, make_bad(source, max_bad_share=0.1), threads=1))
    message = str(user_error_in(caught.value))
    assert "4 of the 32 examples of train are bad" in message
    assert "data.max_bad_share=0.1" in message and "--mode=check_data" in message
    assert "/gone/file.jpg1 (" in message and "No such file" in message


def test_an_error_that_is_not_the_datas_is_not_skipped(good_paths):
    source = source_of(good_paths)

    def load(path, label):
        """Fails as a mistake in the program would."""
        tf.debugging.Assert(label < 3, ["wrong"])
        return source.load(path, label)

    bad = make_bad(source)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        list(read_groups(source, bad, load=load))
    assert "can be read and decoded" in str(user_error_in(caught.value))
    assert bad.count == 0


def test_mistakes_at_trace_time_are_raised(good_paths):
    source = source_of(good_paths)

    def load(path, label):
        return path, tf.reshape(label, [7])

    with pytest.raises(ValueError, match="[Rr]eshape"):
        read_groups(source, make_bad(source), load=load)


def test_settings_that_do_not_fit_are_not_skipped(good_paths):
    source = source_of(good_paths)

    def load(path, label):
        tf.debugging.Assert(label < 3, [tf.strings.join([path, " has a label outside of 0..2"])])
        return tf.io.read_file(path), label

    source = type(source)(
        **{
            **{name: getattr(source, name) for name in source.__dataclass_fields__},
            "load": load,
        }
    )
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        list(read_groups(source, make_bad(source)))
    assert "outside of 0..2" in str(user_error_in(caught.value))


def test_threads_may_report_at_the_same_time(good_paths):
    source = source_of(with_broken(good_paths, set(range(32))))
    bad = make_bad(source, max_bad_share=0.999999)
    records = list(source.records(None).take(31).as_numpy_iterator())

    def report():
        for record in records:
            bad.report(*record)

    threads = [threading.Thread(target=report) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bad.count == 31
    with pytest.raises(UserError, match="32 of the 32"):
        bad.report(*list(source.records(None).as_numpy_iterator())[31])


def test_examples_of_one_name_are_told_apart():
    source = make_indexed_source(["/gone/file.jpg"] * 4, [0, 1, 0, 1], "ab", 0)
    bad = make_bad(source, max_bad_share=0.9)
    for record in source.records(None):
        bad.report(*(part.numpy() for part in record))
    assert bad.count == 2
