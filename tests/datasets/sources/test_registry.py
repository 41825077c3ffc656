"""`open_source` picks the source by name and checks what no source can."""

import dataclasses
import importlib

import pytest

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.sources.registry import open_source
from efficientnetv2.datasets.sources.source import SPLITS, Source
from efficientnetv2.hparams import DataConfig


def source_of(multi_label=False):
    return Source(1, ("a",), None, None, None, multi_label=multi_label)


@pytest.mark.parametrize(
    ("ds_name", "module", "function"),
    [
        ("folder", "folder", "open_folder"),
        ("csv", "csv", "open_csv"),
        ("tfrecord", "tfrecord", "open_tfrecord"),
        ("tfds", "tfds", "open_tfds"),
        ("shapes", "tfds", "open_tfds"),
    ],
)
def test_dispatch(monkeypatch, ds_name, module, function):
    calls, source = [], source_of()
    module = importlib.import_module(f"efficientnetv2.datasets.sources.{module}")
    monkeypatch.setattr(module, function, lambda *arguments: calls.append(arguments) or source)
    data_config = DataConfig(ds_name=ds_name)
    for split in SPLITS:
        assert open_source(data_config, split, seed=3) is source
    assert calls == [(data_config, split, 3) for split in SPLITS]


def test_unknown_names_are_user_errors():
    with pytest.raises(UserError, match="of shapes, folder, csv, tfrecord, tfds, got 'imagenet'"):
        open_source(DataConfig(ds_name="imagenet"), "train", 0)
    with pytest.raises(UserError, match="got 'dev'"):
        open_source(DataConfig(), "dev", 0)


@pytest.mark.parametrize("ds_name", ["shapes", "tfds", "tfrecord"])
def test_balanced_sampling_needs_the_labels(ds_name):
    data_config = DataConfig(ds_name=ds_name, class_balance="sample")
    with pytest.raises(UserError, match=f"ds_name={ds_name} does not have; use folder or csv"):
        open_source(data_config, "train", 0)


@pytest.mark.parametrize(("multiclass", "found"), [(True, "one label"), (False, "any number of")])
def test_one_label_or_several_must_be_set(monkeypatch, multiclass, found):
    from efficientnetv2.datasets.sources import folder

    monkeypatch.setattr(folder, "open_folder", lambda *_: source_of(multi_label=not multiclass))
    data_config = DataConfig(ds_name="folder", multiclass=multiclass)
    with pytest.raises(UserError, match=f"{found}.* each; set it to {not multiclass}"):
        open_source(data_config, "train", 0)


def test_a_source_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        source_of().num_examples = 2
