"""Mode scale: the file, the tables, the command, and what is refused."""

import pathlib
import shlex
import types

import pytest

import efficientnetv2.search.scale
from efficientnetv2 import Blocks, ModelSpec, get_spec, hparams, save_spec

FLAGS = ("--mode=scale", "--model_name=efficientnetv2-s")


def test_s_grows_to_the_size_of_m(answer, tmp_path):
    flags = ("--scale_params=54.1e6", f"--output_dir={tmp_path}/new/folder")
    result, lines = answer(*FLAGS, "--dataset_cfg=imagenet", *flags)
    spec = get_spec(result["spec"])
    assert result["spec"].startswith(f"{tmp_path}/new/folder/efficientnetv2-s-53.")
    assert spec.name == "efficientnetv2-s-53.6m"
    assert spec.dropout_rate == get_spec("efficientnetv2-s").dropout_rate
    assert result["eval_size"] == 480
    [near] = result["published"]
    assert near["model"] == "efficientnetv2-m"
    assert abs(near["params_difference"]) < 0.15
    assert abs(near["macs_difference"]) < 0.15
    assert any(line.startswith("efficientnetv2-m ") and "54.1 (-0.9%)" in line for line in lines)
    assert f"train  {result['command']}" in lines
    words = shlex.split(result["command"])
    assert words[:2] == ["python", "main.py"]
    assert "model.dropout_rate=0.3" in words[-1]  # The paper's of S, which a file does not bring.
    assert result["train_size"] == 376
    config = hparams.get_config(result["spec"], "imagenet", words[-1].removeprefix("--hparam_str="))
    own = hparams.get_config("efficientnetv2-s", "imagenet")
    changed = ["model.model_name", "train.isize", "eval.isize"]
    assert hparams.differing_keys(config, own) == changed


def test_a_file_with_settings_of_its_own_grows_and_trains_with_them(answer, tmp_path, monkeypatch):
    """Settings of the network end in the file, the others in the command."""
    monkeypatch.chdir(tmp_path)
    rows = (Blocks("fused", 1, 3, 1, 1, 16, 16), Blocks("mbconv", 2, 3, 2, 4, 16, 32, 0.25))
    save_spec(ModelSpec("found", rows, head_channels=64, stem_stride=1), "found.json")
    overrides = "model.width_coefficient=1.5,eval.isize=32,train.isize=32,data.ibase=16"
    result, _ = answer(
        "--mode=scale",
        "--model_name=found.json",
        "--scale_params=500e3",
        f"--hparam_str={overrides},train.lr_base=0.5,data.extra_augment=",
    )
    spec = get_spec(result["spec"])
    assert (spec.stem_stride, spec.width_coefficient) == (1, 1.0)
    assert spec.blocks[0].channels >= 24
    assert result["trainable_params"] == pytest.approx(500e3, rel=0.1)
    command = result["command"]
    assert "width" not in command
    for setting in ("train.lr_base=0.5", "data.ibase=16", f"eval.isize={result['eval_size']}"):
        assert setting in command
    assert result["eval_size"] == result["train_size"] > 32


def test_settings_with_commas_go_through_a_file(answer, tmp_path):
    settings = tmp_path / "mine.yaml"
    settings.write_text("train: {freeze: 'a{1,2}'}\n")
    result, _ = answer(
        *FLAGS, "--scale_params=30e6", f"--output_dir={tmp_path}", f"--hparam_str={settings}"
    )
    file = result["spec"].removesuffix(".json") + ".yaml"
    assert result["command"].endswith(f"--hparam_str={file}")
    assert "train.freeze: a{1,2}" in pathlib.Path(file).read_text()


def test_a_step_time_is_measured_by_the_products_own_step(answer, tmp_path, monkeypatch):
    asked = []

    def measure(spec, image_size, batch_size, precision, alone):
        with alone:
            asked.append((image_size, batch_size, precision))
            params = sum(row.channels * row.repeats for row in spec.blocks)
        return types.SimpleNamespace(step_seconds=1e-4 * params)

    monkeypatch.setattr(efficientnetv2.search.scale, "measure_spec", measure)
    overrides = "--hparam_str=train.batch_size=24,train.precision=bfloat16"
    rows = get_spec("efficientnetv2-s").blocks
    first = 1e-1 * sum(row.channels * row.repeats for row in rows)  # ms
    result, lines = answer(
        *FLAGS, f"--scale_step_ms={2 * first}", overrides, f"--output_dir={tmp_path}"
    )
    assert result["step_seconds"] == pytest.approx(2e-3 * first, rel=0.05)
    assert asked[0] == (300, 24, "bfloat16")
    assert any(line.startswith("step   ") and "measured here" in line for line in lines)
    assert "train.batch_size=24" in result["command"]
    assert get_spec(result["spec"]).name.endswith("ms")


@pytest.mark.parametrize(
    "flags, message",
    [
        ((), "--mode=scale needs one of --scale_params=54e6 and --scale_step_ms=250"),
        (
            ("--scale_params=54e6", "--scale_step_ms=9"),
            "--mode=scale needs one of --scale_params=54e6 and --scale_step_ms=250",
        ),
        (("--scale_params=0",), "--scale_params must be a number above 0, got 0.0"),
        (("--scale_params=nan",), "--scale_params must be a number above 0, got nan"),
        (("--scale_step_ms=5",), "--scale_step_ms is of a step of how many images? add --hparam_s"),
        (("--scale_params=1e6",), "scaling only grows: parameters must be a number from 21.46 mil"),
        (("--scale_params=54e6", "--model_name=keras/ResNet50"), "--mode=scale needs rows of bloc"),
        (("--scale_params=54e6", "--model_name=x.json"), "cannot read the architecture x.json: No"),
        (("--scale_params=54e6", "--output_dir=/dev/null/x"), "cannot write to --output_dir=/dev/"),
    ],
)
def test_what_is_refused(refused, flags, message):
    assert refused(*FLAGS, *flags).startswith(message)


def test_a_model_is_needed(refused):
    error = refused("--mode=scale", "--scale_params=54e6")
    assert error == "--model_name is needed with --mode=scale: a network or its JSON file"


def test_a_real_step_is_measured(refused, tmp_path):
    """No step takes a nanosecond, on whatever machine."""
    rows = (Blocks("fused", 1, 3, 2, 1, 8, 8),)
    save_spec(ModelSpec("tiny", rows, head_channels=8), f"{tmp_path}/tiny.json")
    error = refused(
        "--mode=scale",
        f"--model_name={tmp_path}/tiny.json",
        "--scale_step_ms=1e-6",
        "--hparam_str=train.batch_size=2,train.isize=17,eval.isize=17,data.ibase=17",
    )
    assert error.startswith("scaling only grows: a training step must take a number of millisec")
    assert "as tiny does, got 1e-06" in error
