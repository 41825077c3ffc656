"""What a `model_dir` holds beside checkpoints."""

import pytest

import hparams
from efficientnetv2 import run_dir
from hparams import UserError

CONFIG = hparams.get_config("efficientnetv2-b0", "shapes")
NAMES = ("cat", "dog with spaces", "größer")


def test_a_run_opens_with_the_config_and_class_names_it_was_started_with(tmp_path):
    model_dir = str(tmp_path / "new" / "run")
    run_dir.start_run(model_dir, CONFIG, NAMES)
    assert run_dir.open_run(model_dir) == (CONFIG, NAMES)
    run_dir.start_run(model_dir, CONFIG, NAMES)  # Resuming with the same settings is no error.
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    "override", ["train.lr_base=0.5", "train.seed=3", "data.ram=7", "model.act_fn=relu"]
)
def test_resuming_with_other_settings_is_refused(tmp_path, override):
    run_dir.start_run(str(tmp_path), CONFIG, NAMES)
    changed = hparams.with_overrides(CONFIG, override)
    key = override.split("=")[0]
    with pytest.raises(UserError, match=f"other values of {key};"):
        run_dir.start_run(str(tmp_path), changed, NAMES)
    assert run_dir.open_run(str(tmp_path)) == (CONFIG, NAMES)


def test_all_settings_that_differ_are_named(tmp_path):
    run_dir.start_run(str(tmp_path), CONFIG, NAMES)
    changed = hparams.with_overrides(
        CONFIG, "train.epochs=7,runtime.checkpoint_steps=3,data.ram=20"
    )
    with pytest.raises(UserError, match="other values of train.epochs, data.ram;"):
        run_dir.start_run(str(tmp_path), changed, NAMES)


@pytest.mark.parametrize(
    "override",
    ["runtime.log_step_count_steps=3", "eval.batch_size=7", "data.data_dir=/somewhere/else"],
)
def test_settings_that_do_not_change_the_result_may_differ(tmp_path, override):
    run_dir.start_run(str(tmp_path), CONFIG, NAMES)
    changed = hparams.with_overrides(CONFIG, override)
    run_dir.start_run(str(tmp_path), changed, NAMES)
    assert run_dir.open_run(str(tmp_path))[0] == changed


def test_a_folder_without_a_run_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="holds no run .*config.yaml is missing.*; train first"):
        run_dir.open_run(str(tmp_path))


def test_missing_class_names_are_a_user_error(tmp_path):
    run_dir.start_run(str(tmp_path), CONFIG, NAMES)
    (tmp_path / run_dir.LABELS_FILE).unlink()
    with pytest.raises(UserError, match="cannot read class names from .*labels.txt: No such file"):
        run_dir.open_run(str(tmp_path))
