"""What a `model_dir` holds beside checkpoints."""

import dataclasses
import os
import re

import pytest

from efficientnetv2 import Blocks, ModelSpec, build_from_config, hparams, save_spec
from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams.spec import load_spec
from efficientnetv2.training import run_dir

CONFIG = hparams.get_config("efficientnetv2-b0", "shapes")
NAMES = ("cat", "dog with spaces", "größer")
SPEC = ModelSpec("mine", (Blocks("fused", 1, 3, 2, 1, 8, 8),), head_channels=16)


@pytest.fixture
def json_run(tmp_path):
    """The path of an architecture, its config, and a run of it."""
    path = tmp_path / "net.json"
    save_spec(SPEC, str(path))
    config = hparams.get_config(str(path), "shapes")
    run_dir.start_run(str(tmp_path / "run"), config, NAMES)
    return path, config, str(tmp_path / "run")


def test_a_run_opens_with_the_config_and_class_names_it_was_started_with(tmp_path):
    model_dir = str(tmp_path / "new" / "run")
    run_dir.start_run(model_dir, CONFIG, NAMES)
    assert run_dir.open_run(model_dir) == (CONFIG, NAMES)
    run_dir.check_run(model_dir, CONFIG, NAMES)  # Resuming with the same settings is no error.
    assert not list(tmp_path.rglob("*.part"))


def changed_run(directory, override, **more):
    """A run of CONFIG in a directory that goes on with `override`; returns the new config."""
    run_dir.start_run(str(directory), CONFIG, NAMES)
    config = hparams.with_overrides(CONFIG, override)
    run_dir.check_run(str(directory), config, NAMES, **more)
    run_dir.start_run(str(directory), config, NAMES)
    return config


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("train.lr_base=0.5", "train.lr_base=0.016 (now 0.5)"),
        ("train.seed=3", "train.seed=0 (now 3)"),
        ("model.act_fn=relu", "model.act_fn=silu (now relu)"),
        ("train.freeze=stem", "train.freeze=null (now stem)"),
        ("train.freeze_bn=true", "train.freeze_bn=null (now true)"),
        ("eval.best_metric=top1", "eval.best_metric=null (now top1)"),
        (
            "train.epochs=7,runtime.checkpoint_steps=3,data.ram=20",
            "train.epochs=350 (now 7), data.ram=10.0 (now 20.0)",
        ),
    ],
)
def test_resuming_with_other_settings_is_refused(tmp_path, override, values):
    theirs = re.escape(values.replace("350", str(CONFIG.train.epochs)))
    with pytest.raises(UserError, match=f"a run with {theirs}; give the same .*--allow_changes"):
        changed_run(tmp_path, override)
    assert run_dir.open_run(str(tmp_path)) == (CONFIG, NAMES)
    assert not list(tmp_path.glob("config.*.yaml"))


def test_a_run_goes_on_with_other_settings_where_that_is_asked_for(tmp_path):
    changed = changed_run(tmp_path, "train.lr_base=0.5", allow_changes=True)
    assert run_dir.open_run(str(tmp_path))[0] == changed
    assert hparams.load_config(str(tmp_path / "config.0.yaml")) == CONFIG


def test_the_config_that_was_trained_with_is_kept_under_the_step_it_held_to(tmp_path):
    for name in ("ckpt-8.json", "ckpt-8.index", "ckpt-12.json", "ckpt-12.index"):
        (tmp_path / name).write_text("{}")
    changed_run(tmp_path, "train.lr_base=0.5", allow_changes=True)
    again = hparams.with_overrides(CONFIG, "train.lr_base=0.7")
    run_dir.start_run(str(tmp_path), again, NAMES)  # Nothing was trained in between.
    assert [path.name for path in tmp_path.glob("config.*.yaml")] == ["config.12.yaml"]
    assert hparams.load_config(str(tmp_path / "config.12.yaml")) == CONFIG
    assert run_dir.open_run(str(tmp_path))[0] == again


def test_other_classes_are_refused_whatever_may_change(tmp_path):
    run_dir.start_run(str(tmp_path), CONFIG, NAMES)
    with pytest.raises(UserError, match="class 'cat' where the data has 'cow'"):
        run_dir.check_run(str(tmp_path), CONFIG, ("cow", *NAMES[1:]), allow_changes=True)


@pytest.mark.parametrize(
    "override",
    [
        "runtime.log_step_count_steps=3",
        "eval.batch_size=7",
        "eval.every_epochs=2",
        "data.data_dir=/somewhere/else",
        "train.on_nan=rollback",
    ],
)
def test_settings_that_do_not_change_the_result_may_differ(tmp_path, override):
    changed = changed_run(tmp_path, override)
    assert run_dir.open_run(str(tmp_path))[0] == changed
    assert not list(tmp_path.glob("config.*.yaml"))


def test_how_often_is_evaluated_may_not_differ_where_evaluations_choose(tmp_path):
    selecting = hparams.with_overrides(CONFIG, "eval.best_metric=top1")
    run_dir.start_run(str(tmp_path), selecting, NAMES)
    changed = hparams.with_overrides(selecting, "eval.every_epochs=2")
    with pytest.raises(UserError, match=r"eval.every_epochs=1 \(now 2\)"):
        run_dir.check_run(str(tmp_path), changed, NAMES)


def test_a_folder_without_a_run_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="holds no run .*config.yaml is missing.*; train first"):
        run_dir.open_run(str(tmp_path))


def test_missing_class_names_are_a_user_error(tmp_path):
    run_dir.start_run(str(tmp_path), CONFIG, NAMES)
    (tmp_path / run_dir.LABELS_FILE).unlink()
    with pytest.raises(UserError, match="cannot read class names from .*labels.txt: No such file"):
        run_dir.open_run(str(tmp_path))


def test_a_run_keeps_its_own_copy_of_a_json_architecture(json_run):
    path, config, run = json_run
    path.unlink()
    opened, names = run_dir.open_run(run)
    assert names == NAMES
    assert load_spec(opened.model.model_name) == SPEC
    assert opened.model.model_name.startswith(run)
    assert hparams.differing_keys(config, opened) == ["model.model_name"]
    model = build_from_config(opened)
    assert (model.name, model.get_layer("head_conv").filters) == ("mine", 16)
    assert run_dir.model_name(run) == str(path)


def test_resuming_a_json_architecture_needs_the_same_content(json_run):
    path, config, run = json_run
    run_dir.check_run(run, config, NAMES)
    for change in ({"head_channels": 24}, {"activation": "relu"}):
        save_spec(dataclasses.replace(SPEC, **change), str(path))
        with pytest.raises(UserError, match=f"^{path} is not the architecture that {run} was star"):
            run_dir.check_run(run, config, NAMES)
        assert load_spec(os.path.join(run, run_dir.SPEC_FILE)) == SPEC
    path.unlink()
    with pytest.raises(UserError, match=f"cannot read the architecture {path}: No such file"):
        run_dir.check_run(run, config, NAMES)


def test_checking_a_run_writes_nothing(tmp_path):
    """So that settings that turn out to be impossible can be mended in the same directory."""
    model_dir = str(tmp_path / "new")
    run_dir.check_run(model_dir, CONFIG, NAMES)
    assert os.listdir(model_dir) == []
    run_dir.start_run(model_dir, CONFIG, NAMES)
    changed = hparams.with_overrides(CONFIG, "train.seed=3")
    with pytest.raises(UserError, match="a run with train.seed=0 "):
        run_dir.check_run(model_dir, changed, NAMES)


def test_a_directory_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="^cannot make --model_dir=.*/file/run: Not a directory$"):
        run_dir.check_run(str(tmp_path / "file" / "run"), CONFIG, NAMES)


def test_an_architecture_of_a_start_that_was_cut_short_is_replaced(json_run):
    """Without a config there is no run yet."""
    path, config, run = json_run
    os.remove(os.path.join(run, run_dir.CONFIG_FILE))
    save_spec(dataclasses.replace(SPEC, head_channels=24), str(path))
    run_dir.start_run(run, config, NAMES)
    assert load_spec(run_dir.open_run(run)[0].model.model_name).head_channels == 24
