"""A broken image is found by name."""

import pathlib
import types

import pytest
import tensorflow as tf

from datasets import find_unreadable, open_source

GOLDFISH = pathlib.Path(__file__).parents[1] / "data" / "goldfish.jpg"


@pytest.fixture
def folder(tmp_path):
    for name in ("train/a", "train/b", "val/a"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.jpg").write_bytes(GOLDFISH.read_bytes())
    return tmp_path


def sources(folder):
    data = types.SimpleNamespace(ds_name="folder", data_dir=str(folder), eval_fraction=0.2)
    return [open_source(data, split, seed=0) for split in ("train", "eval")]


def test_nothing_is_found_in_good_data(folder):
    assert find_unreadable(sources(folder)) is None


@pytest.mark.parametrize("content", [b"", b"no image", GOLDFISH.read_bytes()[:3000]])
@pytest.mark.parametrize("place", ["train/b/2.jpg", "val/a/2.jpg"])
def test_the_broken_file_is_named(folder, place, content):
    (folder / place).write_bytes(content)
    assert find_unreadable(sources(folder)) == str(folder / place)


def test_examples_that_are_no_files_are_counted(folder):
    good = sources(folder)[0]
    broken = tf.data.Dataset.from_tensor_slices([GOLDFISH.read_bytes(), b"no image"])
    memory = types.SimpleNamespace(records=lambda epoch: broken, load=lambda image: (image, 0))
    assert find_unreadable([good, memory]) == "example 1"
