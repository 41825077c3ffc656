"""The config as a whole: frozen, checked, saved and read back, read by the product, pure."""

import ast
import dataclasses
import pathlib
import subprocess
import sys

import pytest
import yaml

from efficientnetv2 import hparams
from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams import get_config, load_config, save_config, with_overrides
from efficientnetv2.hparams.config import Config

ROOT = pathlib.Path(__file__).parents[2]
PACKAGES = ("datasets", "efficientnetv2", "export", "hparams")


def test_config_is_frozen_and_copies_are_apart():
    config = get_config("efficientnetv2-b0", "shapes")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.train.epochs = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.train = None
    assert hash(config) == hash(get_config("efficientnetv2-b0", "shapes"))


# official_semantics.md, sections 0.4, 1.13 (0.8 rule) and 7.2 (ratio 1.0).
@pytest.mark.parametrize(
    "eval_size, ratio, size",
    [(224, 0.8, 176), (240, 0.8, 192), (260, 0.8, 208), (300, 0.8, 240), (380, 0.8, 304)]
    + [(456, 0.8, 352), (528, 0.8, 416), (600, 0.8, 480), (672, 0.8, 528), (800, 0.8, 640)]
    + [(300, 1, 288), (260, 1.0, 256), (384, 1.0, 384), (32, 16, 512)],
)
def test_train_size_up_to_16_is_a_ratio(eval_size, ratio, size):
    config = get_config("efficientnetv2-s", "shapes", "data.ibase=null")
    config = with_overrides(config, f"eval.isize={eval_size},train.isize={ratio}")
    assert config.train_size == size
    assert type(config.train_size) is int


@pytest.mark.parametrize("isize, size", [("17", 17), ("300", 300), ("300.0", 300)])
def test_train_size_above_16_is_pixels(isize, size):
    config = get_config("efficientnetv2-s", "shapes", f"data.ibase=null,train.isize={isize}")
    assert config.train_size == size
    assert type(config.train_size) is int


@pytest.mark.parametrize(
    "overrides, message",
    [
        (
            "train.isize=0.01",
            "train.isize=0.01 of eval.isize=384 gives an image of 0 pixels; a value of at most 16 "
            "is a ratio, write pixels above 16",
        ),
        (
            "train.isize=100",
            "data.ibase=128 must be at most the train size of 100 pixels; lower data.ibase or "
            "raise train.isize",
        ),
        (
            "data.ds_name=folder",
            "data.data_dir is needed for a folder of images; add --data_dir=PATH",
        ),
        ("data.ds_name=tfds", "data.tfds_name is needed; write --dataset_cfg=tfds:NAME"),
    ],
)
def test_values_that_contradict_each_other(overrides, message):
    with pytest.raises(UserError) as error:
        get_config("efficientnetv2-s", "shapes", overrides)
    assert str(error.value) == message


def test_sizes_may_be_equal_and_fixed_has_no_first_size():
    assert get_config("efficientnetv2-s", "shapes", "train.isize=128").train_size == 128
    fixed = "train.isize=100,train.schedule=fixed"
    assert get_config("efficientnetv2-s", "shapes", fixed).train_size == 100


@pytest.mark.parametrize(
    "dataset, overrides, data_dir",
    [
        ("shapes", "", None),
        ("imagenet", "train.lr_base=1e-7,train.isize=0.8,data.ibase=null,data.augname=null", None),
        ("folder", "train.weight_decay=0,data.eval_fraction=0.1", "a: folder, 'of' #images"),
        ("folder", "", "null"),
        ("folder", "", "1e3"),
        ("tfds:Cifar10:3.0.2", "data.splits.minival.tfds_split=test[:50%]", "ünï"),
    ],
)
def test_saved_config_reads_back_equal(dataset, overrides, data_dir, tmp_path):
    config = get_config("efficientnetv2-m", dataset, overrides, data_dir=data_dir)
    path = tmp_path / "config.yaml"
    save_config(config, str(path))
    assert load_config(str(path)) == config
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]
    again = get_config("efficientnetv2-m", "shapes", str(path))  # Also as a file of overrides.
    assert again == config


def test_saved_config_holds_every_key_in_plain_yaml(tmp_path):
    path = tmp_path / "config.yaml"
    save_config(get_config("efficientnetv2-s", "imagenet"), str(path))
    content = yaml.safe_load(path.read_text())
    assert list(content) == ["model", "train", "eval", "data", "runtime"]
    assert content["train"]["epochs"] == 350
    assert content == dataclasses.asdict(get_config("efficientnetv2-s", "imagenet"))


@pytest.mark.parametrize(
    "content, message",
    [
        ("train: {epoch: 3}", "unknown key 'train.epoch'; did you mean 'train.epochs'"),
        ("train: {epochs: -3}", "train.epochs must be at least 1, got -3"),
        ("data: {ds_name: folder}", "data.data_dir is needed"),
    ],
)
def test_reading_a_config_checks_it(content, message, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_config(str(path))


def test_reading_a_missing_config_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="cannot read settings from .*config.yaml"):
        load_config(str(tmp_path / "config.yaml"))


@pytest.mark.parametrize("recipe", sorted((ROOT / "hparams" / "recipes").glob("*.yaml")))
def test_shipped_recipes_load_and_plan(recipe):
    config = get_config("efficientnetv2-b0", "shapes", str(recipe))
    sizes = [stage.image_size for stage in hparams.make_stages(config)]
    assert sizes == sorted(sizes)
    assert sizes[-1] == config.train_size


def attribute_reads(tree):
    """(name of what it is read from, attribute) of every attribute that is read below `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            base, picked = node.value, ""
            if isinstance(base, ast.Call) and base.args:  # getattr(config.splits, name).field
                base, picked = base.args[0], "[]"
            yield getattr(base, "attr", getattr(base, "id", "")) + picked, node.attr


def section_names(section, parent="config"):
    """Maps each class of settings to the names that product code reads one by."""
    names = {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            own = {field.name, f"{field.name}_config", f"{parent}[]", f"{parent[:-1]}_config"}
            names[type(value)] = names.get(type(value), set()) | own
            names |= section_names(value, field.name)
    return names


def unread_fields(config):
    """Fields of the config that no product file reads, except to check or pass them on.

    A property of `Config` that is read elsewhere counts for the fields that it reads.
    """
    config_file = ROOT / "hparams" / "config.py"
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    reads = set()
    for path in {ROOT / "main.py", *files} - {config_file}:
        reads |= set(attribute_reads(ast.parse(path.read_text(encoding="utf-8"))))
    attributes = {attribute for _, attribute in reads}
    for node in ast.walk(ast.parse(config_file.read_text(encoding="utf-8"))):
        decorators = getattr(node, "decorator_list", [])
        if any(getattr(d, "id", "") == "property" for d in decorators) and node.name in attributes:
            reads |= set(attribute_reads(node))
    return [
        f"{cls.__name__}.{field.name}"
        for cls, names in section_names(config).items()
        for field in dataclasses.fields(cls)
        if not dataclasses.is_dataclass(field.default)
        and not any((name, field.name) in reads for name in names)
    ]


def test_every_field_is_read_by_the_product():
    assert unread_fields(Config()) == []


def test_a_field_that_nothing_reads_is_found():
    extra = dataclasses.make_dataclass(
        "Extra", [("lr_bass", float, 0.0), ("image_size", int, 0)], frozen=True
    )
    config = dataclasses.make_dataclass("Bad", [("train", extra, extra())], frozen=True)()
    # `image_size` is read in many files, but never from the section `train`.
    assert unread_fields(config) == ["Extra.lr_bass", "Extra.image_size"]


def test_hparams_imports_neither_tensorflow_nor_other_packages_of_ours():
    program = (
        "import sys\nfrom efficientnetv2 import hparams\n"
        "hparams.make_stages(hparams.get_config('efficientnetv2-s', 'imagenettfds'))\n"
        "print(*sorted(sys.modules))\n"
    )
    run = [sys.executable, "-c", program]
    result = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    names = result.stdout.split()
    loaded = {name.partition(".")[0] for name in names}
    assert {"efficientnetv2", "yaml"} <= loaded
    heavy = {"tensorflow", "keras", "numpy", "absl", "tensorflow_datasets", "jax", "torch"}
    assert not loaded & (heavy | {"datasets", "hparams", "export", "main"})
    ours = {name.split(".")[1] for name in names if name.startswith("efficientnetv2.")}
    assert ours == {"common", "hparams"}


def test_a_config_remembers_what_it_was_built_from_and_is_built_again_with_weights():
    config = get_config("efficientnetv2-b1", "folder", "train.epochs=7", data_dir="photos")
    inputs = hparams.inputs_of(config)
    assert (inputs.model_name, inputs.dataset_cfg) == ("efficientnetv2-b1", "folder")
    assert inputs.overrides == {"train.epochs": 7, "data.data_dir": "photos"}
    tuned = hparams.with_weights(config, "imagenet", {"eval.isize": 320, "train.epochs": 3})
    text = "train.epochs=7,train.ft_init_ckpt=imagenet"
    same = get_config(
        "efficientnetv2-b1",
        "folder",
        text,
        data_dir="photos",
        weights_settings={"eval.isize": 320, "train.epochs": 3},
    )
    assert tuned == same
    assert (tuned.eval.isize, tuned.train.epochs) == (320, 7)  # Overrides win.
    assert tuned.train.lr_base != config.train.lr_base  # The defaults of fine-tuning.


def test_what_is_set_later_is_remembered_and_a_loaded_config_states_everything(tmp_path):
    config = hparams.with_values(get_config(None, "shapes"), train__epochs=5)
    assert hparams.inputs_of(config).overrides == {"train.epochs": 5}
    assert hparams.with_weights(config, settings={"train.epochs": 9}) == config
    hparams.save_config(config, str(tmp_path / "config.yaml"))
    loaded = hparams.load_config(str(tmp_path / "config.yaml"))
    assert loaded == config and hparams.inputs_of(loaded) is None
    assert hparams.with_weights(loaded, settings={"eval.isize": 8}) == loaded
    tuned = hparams.with_weights(loaded, "runs/a")
    assert hparams.differing_keys(tuned, loaded) == ["train.ft_init_ckpt"]


def test_overrides_may_be_a_mapping():
    text = get_config(None, "shapes", "train.epochs=5,train.lr_base=1e-4,data.augname=null")
    nested = {"train": {"epochs": 5, "lr_base": 1e-4}, "data.augname": None}
    assert get_config(overrides=nested) == text
    with pytest.raises(UserError, match="unknown key 'train.epoch'; did you mean 'train.epochs'"):
        get_config(overrides={"train": {"epoch": 5}})
