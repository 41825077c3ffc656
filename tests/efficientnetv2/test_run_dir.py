"""A run's directory: what it holds, what may differ when it is resumed, what is refused."""

import pytest

from efficientnetv2.run_dir import open_run, start_run
from hparams import UserError, get_config, with_values

NAMES = ("cat", "dog", "grey parrot")


@pytest.fixture
def config():
    config = get_config("efficientnetv2-b0", "folder", data_dir="photos")
    return with_values(config, data__num_classes=3, data__splits__train__num_images=9)


def test_a_run_is_opened_as_it_was_started(config, tmp_path):
    run = str(tmp_path / "runs" / "first")
    start_run(run, config, NAMES)
    assert open_run(run) == (config, NAMES)
    names = {path.name for path in (tmp_path / "runs" / "first").iterdir()}
    assert names == {"config.yaml", "labels.txt"}


@pytest.mark.parametrize(
    "key, value",
    [
        ("data__data_dir", "moved"),
        ("eval__batch_size", 7),
        ("eval__every_epochs", 7),
        ("runtime__checkpoint_steps", 7),
        ("data__splits__minival__num_images", 7),  # Not counted by --mode=train.
        ("data__splits__eval__num_images", 7),
    ],
)
def test_what_is_not_trained_by_may_differ_on_resuming(config, key, value, tmp_path):
    start_run(str(tmp_path), config, NAMES)
    other = with_values(config, **{key: value})
    start_run(str(tmp_path), other, NAMES)
    assert open_run(str(tmp_path)) == (other, NAMES)


def test_other_settings_are_refused_and_named(config, tmp_path):
    start_run(str(tmp_path), config, NAMES)
    other = with_values(config, train__epochs=2, data__splits__train__num_images=8)
    with pytest.raises(UserError, match="train.epochs, data.splits.train.num_images; give another"):
        start_run(str(tmp_path), other, NAMES)
    assert open_run(str(tmp_path))[0] == config


def test_other_classes_are_refused(config, tmp_path):
    start_run(str(tmp_path), config, NAMES)
    with pytest.raises(UserError, match="a run with class 'cat' where the data has 'dog'; give"):
        start_run(str(tmp_path), config, ("dog", "cat", "grey parrot"))
    assert open_run(str(tmp_path))[1] == NAMES


def test_a_directory_that_cannot_be_made_is_a_users_error(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make --model_dir=.*file"):
        start_run(str(tmp_path / "file"), config, NAMES)


def test_a_directory_without_a_run_is_a_users_error(config, tmp_path):
    with pytest.raises(UserError, match="holds no run .*; train first"):
        open_run(str(tmp_path))
    start_run(str(tmp_path), config, NAMES)
    (tmp_path / "labels.txt").unlink()
    with pytest.raises(UserError, match="cannot read class names from .*labels.txt: No such file"):
        open_run(str(tmp_path))
