"""The library call of scaling: result, silence, and bad arguments."""

import math
import pathlib
import types

import pytest

import efficientnetv2 as effnet
from efficientnetv2.search import scale as scale_module


@pytest.fixture
def config():
    return effnet.get_config("efficientnetv2-b0", "imagenet", "train.batch_size=32")


def test_a_network_grows_in_silence(tmp_path, config, capfd):
    folder = str(tmp_path / "networks")
    result = effnet.scale(config, params=14e6, output_dir=folder)
    assert capfd.readouterr() == ("", "")
    assert pathlib.Path(result["spec"]).parent == tmp_path / "networks"
    assert result["trainable_params"] == pytest.approx(14e6, rel=0.03)
    assert result["step_seconds"] is None
    assert {row["model"] for row in result["published"]} == {"efficientnetv2-b3"}
    spec = effnet.get_spec(result["spec"])
    assert f"--model_name={result['spec']} --model_dir=runs/{spec.name} " in result["command"]
    again = effnet.scale(config, params=14e6, output_dir=folder, verbose=True)
    assert again == result
    assert f"train  {result['command']}" in capfd.readouterr().out.splitlines()


def test_a_step_time_is_met_in_silence(tmp_path, config, monkeypatch, capfd):
    def measure(spec, image_size, batch_size, precision, alone):
        assert (batch_size, precision) == (32, "float32")
        layers = sum(row.channels * row.repeats for row in spec.blocks)
        return types.SimpleNamespace(step_seconds=1e-4 * layers)

    monkeypatch.setattr(scale_module, "measure_spec", measure)
    rows = effnet.get_spec("efficientnetv2-b0").blocks
    first = 1e-4 * sum(row.channels * row.repeats for row in rows)
    result = effnet.scale(config, step_ms=2e3 * first, output_dir=str(tmp_path))
    assert result["step_seconds"] == pytest.approx(2 * first, rel=0.05)
    assert capfd.readouterr() == ("", "")


def test_a_config_of_a_file_states_its_batch(tmp_path, config):
    effnet.save_config(config, f"{tmp_path}/config.yaml")
    saved = effnet.load_config(f"{tmp_path}/config.yaml")
    result = effnet.scale(saved, params=14e6, output_dir=str(tmp_path))
    assert result == effnet.scale(config, params=14e6, output_dir=str(tmp_path))
    with pytest.raises(effnet.UserError, match="--scale_step_ms must be a number above 0"):
        effnet.scale(saved, step_ms=0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "--mode=scale needs one of --scale_params=54e6 and --scale_step_ms=250"),
        ({"params": 54e6, "step_ms": 9.0}, "--mode=scale needs one of --scale_params=54e6 and "),
        ({"params": 0}, "--scale_params must be a number above 0, got 0"),
        ({"step_ms": math.nan}, "--scale_step_ms must be a number above 0, got nan"),
        ({"params": "many"}, "--scale_params must be a number above 0, got many"),
        ({"params": 1e6}, "scaling only grows: parameters must be a number from 7.14 million"),
        ({"params": 14e6, "output_dir": "/dev/null/x"}, "cannot write to --output_dir=/dev/null/x"),
        ({"params": 14e6, "config": "efficientnetv2-s"}, "config must come from get_config"),
        (
            {"params": 54e6, "config": effnet.get_config("keras/ResNet50")},
            "--mode=scale needs rows of blocks, which keras/ResNet50 does not have",
        ),
        (
            {"step_ms": 9, "config": effnet.get_config("efficientnetv2-b0")},
            "--scale_step_ms is of a step of how many images? add --hparam_str=train.batch_size=32",
        ),
    ],
)
def test_bad_arguments_are_one_line(config, capfd, arguments, message):
    with pytest.raises(effnet.UserError) as error:
        effnet.scale(**{"config": config, **arguments})
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")
