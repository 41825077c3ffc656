"""Mode profile: the table, the JSON and the charts."""

import json

import published

from efficientnetv2 import hparams, save_spec


def test_one_model_with_overrides_beside_nothing_published(answer, tmp_path):
    result, lines = answer(
        "--mode=profile", "--model_name=efficientnetv2-b0", "--hparam_str=eval.isize=64"
    )
    [plain] = result["profiles"]
    assert (plain["model"], plain["image_size"]) == ("efficientnetv2-b0", 64)
    assert plain["params"] == 7_200_312
    narrow = "--hparam_str=eval.isize=64,model.width_coefficient=0.5"
    result, _ = answer("--mode=profile", "--model_name=efficientnetv2-b0", narrow)
    assert result["profiles"][0]["params"] < 0.5 * plain["params"]
    assert any(line.startswith("model ") and "FLOPs (B)" in line for line in lines)


def test_the_chart_and_json_of_any_kind_of_model(answer, tmp_path):
    save_spec(published.SPEC, str(tmp_path / "small.json"))
    names = {f"{tmp_path}/small.json": published.SPEC.name, "keras/MobileNetV2": "MobileNetV2"}
    for model, name in names.items():
        out = tmp_path / name
        result, _ = answer("--mode=profile", f"--model_name={model}", f"--output_dir={out}")
        assert json.loads((out / "profile.json").read_text()) == result["profiles"]
        [chart] = out.glob("*.png")
        assert chart.name.endswith(f"{name}-224.png")
        assert chart.read_bytes().startswith(b"\x89PNG")


def test_all_profiles_each_named_model_at_its_evaluation_size(answer, monkeypatch):
    names = ("efficientnetv2-b0", "efficientnet-b0")
    monkeypatch.setattr(hparams, "MODELS", {name: hparams.MODELS[name] for name in names})
    result, _ = answer("--mode=profile", "--model_name=all")
    found = [(one["model"], one["image_size"]) for one in result["profiles"]]
    assert found == [("efficientnetv2-b0", 224), ("efficientnet-b0", 224)]


def test_where_nothing_can_be_written_or_asked_is_one_line(refused, tmp_path):
    (tmp_path / "file").write_text("")
    flags = ("--mode=profile", "--model_name=efficientnetv2-b0")
    where = f"--output_dir={tmp_path}/file"
    assert refused(*flags, where).startswith(f"cannot write to {where}: ")
    error = refused("--mode=profile", "--model_name=all", "--hparam_str=eval.isize=64")
    assert error == "--hparam_str is for one model; drop it, or name the model"
