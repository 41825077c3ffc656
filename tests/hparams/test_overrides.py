"""Overrides: "a.b=c,…" and YAML files, read as the type of their key; what is refused."""

import pytest

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams import differing_keys, get_config, with_overrides, with_values
from efficientnetv2.hparams.config import Config
from efficientnetv2.hparams.overrides import flatten, keys, nearest, override, parse_overrides


def changed(overrides, section, name):
    config = get_config("efficientnetv2-s", "shapes", overrides)
    return getattr(getattr(config, section), name)


@pytest.mark.parametrize(
    "text, section, name, value",
    [
        ("train.epochs=3", "train", "epochs", 3),
        ("train.lr_base=1", "train", "lr_base", 1.0),
        ("train.lr_base=1e-3", "train", "lr_base", 0.001),
        ("train.isize=200", "train", "isize", 200),
        ("train.isize=0.8", "train", "isize", 0.8),
        ("train.lr_sched=cosine", "train", "lr_sched", "cosine"),
        ("data.data_dir=123", "data", "data_dir", "123"),
        ("data.data_dir=a=b", "data", "data_dir", "a=b"),
        ("data.data_dir=set.yaml", "data", "data_dir", "set.yaml"),
        ("data.data_dir=None", "data", "data_dir", None),
        ("data.augname=null", "data", "augname", None),
        ("data.ibase=null", "data", "ibase", None),
        ("data.ibase=64", "data", "ibase", 64),
        ("model.width_coefficient=2", "model", "width_coefficient", 2.0),
        (" train.epochs = 3 ,, train.stages=2,", "train", "epochs", 3),
        ("train.epochs=3,train.epochs=4", "train", "epochs", 4),
        ("data.multiclass=true", "data", "multiclass", True),
        ("data.multiclass=False", "data", "multiclass", False),
        (
            "data.extra_augment=A(b=1,c=(2,3))+D,train.epochs=3",
            "data",
            "extra_augment",
            "A(b=1,c=(2,3))+D",
        ),
    ],
)
def test_text_is_read_as_the_type_of_its_key(text, section, name, value):
    found = changed(text, section, name)
    assert found == value
    assert type(found) is type(value)


def test_nested_keys_and_nothing_else_change():
    config = get_config("efficientnetv2-s", "imagenet")
    other = with_overrides(config, "data.splits.minival.tfds_split=train[99%:],train.seed=4")
    assert other.data.splits.minival.tfds_split == "train[99%:]"
    assert differing_keys(config, other) == ["train.seed", "data.splits.minival.tfds_split"]
    assert config == get_config("efficientnetv2-s", "imagenet")
    assert with_overrides(config, "") == config


def test_with_values_takes_double_underscores_for_dots():
    config = get_config("efficientnetv2-s", "imagenet")
    other = with_values(config, data__splits__train__num_images=9, train__lr_base=1)
    assert other.data.splits.train.num_images == 9
    assert differing_keys(config, other) == ["train.lr_base", "data.splits.train.num_images"]
    with pytest.raises(UserError, match="unknown key 'train.lr_bas'; did you mean 'train.lr_base'"):
        with_values(config, train__lr_bas=1)


def test_yaml_file_nested_and_dotted(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "train:\n  lr_base: 1e-3\n  epochs: 7\n  isize: 0.5\n"
        "data.ibase: null\ndata.splits.train:\n  num_images: 90\nmodel: {width_coefficient: 2}\n"
    )
    config = get_config("efficientnetv2-s", "shapes", str(path))
    assert config.train.lr_base == 0.001  # YAML itself reads 1e-3 as text.
    assert (config.train.epochs, config.train.isize) == (7, 0.5)
    assert (config.data.ibase, config.data.splits.train.num_images) == (None, 90)
    assert isinstance(config.model.width_coefficient, float)


def test_yaml_files_and_items_apply_in_order(tmp_path):
    path = tmp_path / "run.yml"
    path.write_text("train: {epochs: 7}\n")
    assert changed(f"train.epochs=3,{path}", "train", "epochs") == 7
    assert changed(f"{path},train.epochs=3", "train", "epochs") == 3


def test_yaml_path_may_hold_an_equals_sign(tmp_path):
    folder = tmp_path / "lr=1"
    folder.mkdir()
    (folder / "run.yaml").write_text("train: {epochs: 7}\n")
    assert changed(f"{folder}/run.yaml", "train", "epochs") == 7


@pytest.mark.parametrize(
    "text, message",
    [
        ("train.epoch=3", "unknown key 'train.epoch'; did you mean 'train.epochs'?"),
        ("lr_base=3", "unknown key 'lr_base'; did you mean 'train.lr_base'?"),
        ("data.mixup=1", "unknown key 'data.mixup'; did you mean 'data.mixup_base'?"),
        ("Train.Epochs=3", "unknown key 'Train.Epochs'; did you mean 'train.epochs'?"),
        ("train.epochs.x=3", "unknown key 'train.epochs.x'; did you mean 'train.epochs'?"),
        ("data.splits=3", "unknown key 'data.splits'; did you mean "),
        ("=3", "unknown key ''; valid: model.model_name, "),
        ("train.epochs=x", "train.epochs must be of type int, got 'x'"),
        ("train.epochs=3.5", "train.epochs must be of type int, got '3.5'"),
        ("train.epochs=", "train.epochs must be of type int, got ''"),
        ("train.epochs=none", "train.epochs must be of type int, got 'none'"),
        ("data.ibase=x", "data.ibase must be of type int or null, got 'x'"),
        ("train.isize=big", "train.isize must be of type int or float, got 'big'"),
        ("train.lr_base=true", "train.lr_base must be of type float, got 'true'"),
        ("train.epochs=0", "train.epochs must be at least 1, got 0"),
        ("train.lr_base=0", "train.lr_base must be above 0, got 0.0"),
        ("train.lr_base=nan", "train.lr_base must be finite, got nan"),
        ("train.lr_min=inf", "train.lr_min must be finite, got inf"),
        ("data.ram=31", "data.ram must be at most 30, got 31.0"),
        ("model.dropout_rate=1", "model.dropout_rate must be below 1, got 1.0"),
        (
            "train.schedule=papr",
            "train.schedule must be one of paper, official, resize, random, fixed, got 'papr'",
        ),
        ("model.stem_stride=3", "model.stem_stride must be one of 1, 2, got 3"),
        ("train", "--hparam_str item 'train' must be key=value or a .yaml file"),
    ],
)
def test_a_bad_item_is_one_line_naming_key_value_and_way_out(text, message):
    with pytest.raises(UserError) as error:
        get_config("efficientnetv2-s", "shapes", text)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content, message",
    [
        ("train: {epoch: 3}", "unknown key 'train.epoch'; did you mean 'train.epochs'?"),
        ("train: {epochs: 3.0}", "train.epochs must be of type int, got 3.0"),
        ("train: {epochs: true}", "train.epochs must be of type int, got True"),
        ("train: {lr_base: true}", "train.lr_base must be of type float, got True"),
        ("train: {epochs: [3]}", "train.epochs must be of type int, got [3]"),
        ("train: {schedule: 3}", "train.schedule must be of type str, got 3"),
        ("data: {data_dir: 3}", "data.data_dir must be of type str or null, got 3"),
        ("train: {epochs: null}", "train.epochs must be of type int, got None"),
        ("train: 3", "unknown key 'train'"),
        ("7: 3", "unknown key '7'"),
        ("- a\n- b", "PATH must hold a mapping of settings, got list"),
        ("", "PATH must hold a mapping of settings, got NoneType"),
        ("train: {\n  epochs: 3", "cannot read settings from PATH: while parsing"),
        (b"\xff\xfe\xfa", "cannot read settings from PATH: "),
    ],
)
def test_a_bad_yaml_file_is_one_line(content, message, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        get_config("efficientnetv2-s", "shapes", str(path))
    assert str(error.value).startswith(message.replace("PATH", str(path)))
    assert "\n" not in str(error.value)


def test_a_missing_yaml_file_is_named():
    with pytest.raises(UserError, match="cannot read settings from absent.yaml: .*No such file"):
        get_config("efficientnetv2-s", "shapes", "absent.yaml")


def test_keys_are_all_leaves_and_all_can_be_set():
    found = keys()
    assert {"train.epochs", "data.splits.eval.tfds_split", "runtime.checkpoint_steps"} <= {*found}
    assert not {"train", "data.splits", "data.splits.eval"} & {*found}
    assert len(found) == len(set(found))
    for key in found:
        value = Config()
        for name in key.split("."):
            value = getattr(value, name)
        assert override(Config(), [(key, value)]) == Config()


def test_nearest_names_the_closest_or_all():
    assert nearest("evel", ["train", "eval"]) == "; did you mean 'eval'?"
    assert nearest("zzz", ["train", "eval"]) == "; valid: train, eval"


def test_flatten_and_parse_keep_the_order():
    assert flatten({"b": {"y": 1, "x": {"z": 2}}, "a": 3}) == [("b.y", 1), ("b.x.z", 2), ("a", 3)]
    assert parse_overrides("b=1,a=x y") == [("b", "1"), ("a", "x y")]
    assert parse_overrides("") == []


@pytest.mark.parametrize("name", ["shapes_demo.yaml", "hparams/recipes/shapes_demo.yaml"])
def test_a_recipe_is_found_by_its_name_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = get_config(None, "shapes", name)
    assert config.train.epochs != get_config(None, "shapes").train.epochs
    with pytest.raises(UserError, match="cannot read settings from elsewhere/shapes_demo.yaml"):
        get_config(None, "shapes", "elsewhere/shapes_demo.yaml")
    (tmp_path / "shapes_demo.yaml").write_text("train: {epochs: 77}\n")
    assert get_config(None, "shapes", "shapes_demo.yaml").train.epochs == 77
