"""Command lines that train a network: words, and settings that need a file."""

import shlex

import pytest

from efficientnetv2 import hparams
from efficientnetv2.common import text
from efficientnetv2.search.commands import train_command


def words(tmp_path, overrides, **more) -> list[str]:
    inputs = hparams.inputs_of(hparams.get_config(None, "folder", overrides, data_dir="my photos"))
    file = f"{tmp_path}/small.json"
    return shlex.split(train_command(file, "runs/a", inputs.dataset_cfg, inputs.overrides, **more))


def test_the_words_of_a_command(tmp_path):
    assert words(tmp_path, "train.epochs=3,train.freeze=null") == [
        "python",
        "main.py",
        "--mode=traineval",
        f"--model_name={tmp_path}/small.json",
        "--model_dir=runs/a",
        "--dataset_cfg=folder",
        "--data_dir=my photos",
        "--hparam_str=train.epochs=3,train.freeze=null",
    ]
    where = words(tmp_path, "", strategy="tpu", tpu="mine")
    assert where[5:7] == ["--strategy=tpu", "--tpu=mine"]
    assert not any(word.startswith("--hparam_str") for word in where)


@pytest.mark.parametrize(
    "overrides, inline",
    [
        ({"train.freeze": "a{1,2}"}, False),
        ({"train.freeze": " a"}, False),
        ({"train.freeze": "none"}, False),
        ({"train.freeze": ""}, True),
        ({"train.freeze": "(a|b),c=d.yaml"}, False),
        ({"train.freeze": "(a,b)", "train.lr_base": 2.5, "data.multiclass": True}, True),
    ],
)
def test_overrides_are_read_as_they_were(tmp_path, overrides, inline):
    last = words(tmp_path, overrides)[-1].removeprefix("--hparam_str=")
    assert (last != f"{tmp_path}/small.yaml") == inline
    config = hparams.get_config(None, "folder", last, data_dir="my photos")
    assert config == hparams.get_config(None, "folder", overrides, data_dir="my photos")


def test_outside_of_a_checkout_it_is_the_console_command(tmp_path, monkeypatch):
    assert text.program() == ("python", "main.py")
    monkeypatch.setattr(text, "ROOT", str(tmp_path))
    assert words(tmp_path, "")[:2] == ["efficientnetv2", "--mode=traineval"]
