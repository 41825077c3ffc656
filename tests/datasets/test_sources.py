"""`open_source` picks the source by name."""

from types import SimpleNamespace

import pytest

from datasets import folder, tfds_source
from datasets.sources import SPLITS, Source, open_source
from hparams import UserError


@pytest.mark.parametrize(
    ("ds_name", "module", "function"),
    [
        ("folder", folder, "open_folder"),
        ("tfds", tfds_source, "open_tfds"),
        ("shapes", tfds_source, "open_tfds"),
    ],
)
def test_dispatch(monkeypatch, ds_name, module, function):
    calls = []
    monkeypatch.setattr(module, function, lambda *arguments: calls.append(arguments) or "source")
    data_config = SimpleNamespace(ds_name=ds_name)
    for split in SPLITS:
        assert open_source(data_config, split, seed=3) == "source"
    assert calls == [(data_config, split, 3) for split in SPLITS]


def test_unknown_names_are_user_errors():
    with pytest.raises(UserError, match="got 'imagenet'"):
        open_source(SimpleNamespace(ds_name="imagenet"), "train", 0)
    with pytest.raises(UserError, match="got 'dev'"):
        open_source(SimpleNamespace(ds_name="shapes"), "dev", 0)


def test_a_source_cannot_be_changed():
    source = Source(1, ("a",), lambda epoch: None, lambda record: None)
    with pytest.raises(AttributeError):
        source.num_examples = 2
