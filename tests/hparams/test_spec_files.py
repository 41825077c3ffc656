"""Architectures as JSON files: the round trip, the defaults, and each kind of bad file."""

import dataclasses
import json

import numpy as np
import pytest

import efficientnetv2
from efficientnetv2 import Blocks, ModelSpec, get_spec, save_spec
from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams.spec import check_spec, load_spec

FUSED = {
    "kind": "fused",
    "repeats": 1,
    "kernel": 3,
    "stride": 1,
    "expand": 1,
    "channels_in": 8,
    "channels": 8,
}
MBCONV = {**FUSED, "kind": "mbconv", "stride": 2, "expand": 4, "channels": 16, "se_ratio": 0.25}
ROWS = [FUSED, MBCONV]


@pytest.fixture
def write(tmp_path):
    """Writes a file and returns its path."""

    def written(content, name="mine.json") -> str:
        path = tmp_path / name
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return written


def check_refused(path, message):
    with pytest.raises(UserError) as error:
        load_spec(path)
    assert message in str(error.value)
    assert path in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(path) + 300


@pytest.mark.parametrize("name", efficientnetv2.list_models())
def test_every_named_architecture_survives_the_round_trip(tmp_path, name):
    path = str(tmp_path / "any.json")
    save_spec(get_spec(name), path)
    assert get_spec(path) == get_spec(name)
    assert [file.name for file in tmp_path.iterdir()] == ["any.json"]


def test_every_field_survives_the_round_trip(tmp_path):
    """With values that are not the defaults, so that none can be lost."""
    spec = ModelSpec(
        "other", tuple(Blocks(**row) for row in ROWS), 1.5, 2, 64, 0.1, 0.3, "imagenet", 1, 16
    )
    rest = ("symmetric", "relu", "group", 4, 0.99, 1e-5, True)
    names = [field.name for field in dataclasses.fields(ModelSpec)][-len(rest) :]
    spec = dataclasses.replace(spec, **dict(zip(names, rest)))
    for field in dataclasses.fields(ModelSpec):
        assert getattr(spec, field.name) != field.default
    save_spec(spec, str(tmp_path / "a.json"))
    assert load_spec(str(tmp_path / "a.json")) == spec


def test_what_is_left_out_has_the_defaults_and_the_name_of_the_file(write):
    spec = load_spec(write({"blocks": ROWS}, "my-net.v2.json"))
    assert spec == ModelSpec("my-net.v2", tuple(Blocks(**row) for row in ROWS))
    assert load_spec(write({"name": "given", "blocks": ROWS})).name == "given"


def test_a_network_is_built_from_the_path(write):
    settings = {"head_channels": 24, "activation": "relu", "stem_stride": 1, "norm": "group"}
    path = write({"blocks": ROWS, **settings})
    model = efficientnetv2.build_model(path, num_classes=3, drop_path_rate=0.5)
    assert model(np.zeros((2, 16, 16, 3), np.uint8)).shape == (2, 3)
    assert model.name == "mine"
    assert model.get_layer("head_conv").filters == 24
    assert model.get_layer("blocks_1").get_config()["norm"] == "group"
    assert model.get_layer("blocks_1").get_config()["activation"] == "relu"
    features = efficientnetv2.build_backbone(path, levels=(2,))(np.zeros((1, 16, 16, 3), np.uint8))
    assert features["reduction_2"].shape == (1, 8, 8, 16)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "mine.json is no JSON: Expecting property name"),
        ("", "mine.json is no JSON: Expecting value"),
        ("[" * 100_000, "mine.json is no JSON: "),
        ('{"blocks": ' + "9" * 5000 + "}", "mine.json is no JSON: Exceeds the limit"),
        ("[1, 2]", "mine.json must hold an object of fields, got [1, 2]"),
        ("null", "mine.json must hold an object of fields, got None"),
        ({}, 'mine.json needs "blocks", a list of at least one row'),
        ({"blocks": []}, 'mine.json needs "blocks", a list of at least one row'),
        ({"blocks": {"a": 1}}, 'mine.json needs "blocks", a list of at least one row'),
        ({"blocks": ["mbconv"] * 9}, "mine.json: blocks[0] must be an object of fields, got 'mb"),
        ({"blocks": [{}]}, "mine.json: blocks[0] lacks kind; it has nothing"),
    ],
)
def test_what_is_no_specification_is_refused(write, content, message):
    check_refused(write(content), message)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    message = "cannot read the architecture {}: {}"
    missing = str(tmp_path / "none.json")
    check_refused(missing, message.format(missing, "No such file or directory"))
    folder = tmp_path / "folder.json"
    folder.mkdir()
    check_refused(str(folder), message.format(folder, "Is a directory"))
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    check_refused(str(tmp_path / "binary.json"), "is no JSON: 'utf-8' codec can't decode")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"width": 1.0}, "mine.json has an unknown field 'width'; valid: name, blocks"),
        ({"head_chanels": 8}, "unknown field 'head_chanels'; did you mean 'head_channels'?"),
        ({"name": 3}, "name must be a text, got 3"),
        ({"name": "my net"}, "name must be of letters, digits, '.', '_' and '-', and start"),
        ({"name": "-a"}, "and start with neither of the last two, got '-a'"),
        ({"name": ""}, "got ''"),
        ({"name": "größe"}, "got 'größe'"),
        ({"width_coefficient": "1"}, "width_coefficient must be a number, got '1'"),
        ({"width_coefficient": True}, "width_coefficient must be a number, got True"),
        ({"width_coefficient": float("nan")}, "width_coefficient must be a number, got nan"),
        ({"depth_coefficient": float("inf")}, "depth_coefficient must be a number, got inf"),
        ({"depth_coefficient": -1.5}, "depth_coefficient must be from 0.001 to 100, got -1.5"),
        ({"depth_coefficient": 0}, "depth_coefficient must be from 0.001 to 100, got 0"),
        ({"head_channels": 10**300}, "head_channels must be from 1 to 16384, got 1000"),
        ({"head_channels": True}, "head_channels must be a whole number, got True"),
        ({"head_channels": 8.0}, "head_channels must be a whole number, got 8.0"),
        ({"head_channels": None}, "head_channels must be a whole number, got None"),
        ({"head_channels": 9000, "width_coefficient": 9}, "gives 81000 channels; at most 16384"),
        ({"width_coefficient": 1e308}, "width_coefficient must be from 0.001 to 100, got 1e+308"),
        ({"dropout_rate": 1}, "dropout_rate must be in [0, 1), got 1"),
        ({"drop_path_rate": -0.1}, "drop_path_rate must be in [0, 1), got -0.1"),
        ({"bn_momentum": 1.5}, "bn_momentum must be in [0, 1), got 1.5"),
        ({"bn_epsilon": 0}, "bn_epsilon must be from 1e-12 to 1, got 0"),
        ({"normalization": "torch"}, "must be one of centered, inception, imagenet, got 'torch'"),
        ({"padding": ["same"]}, "padding must be one of same, symmetric, got ['same']"),
        ({"norm": "layer"}, "norm must be one of batch, group, got 'layer'"),
        ({"norm": "group", "gn_groups": 3}, "gn_groups=3 must divide all channels, so [8, 16, 1"),
        ({"gn_groups": 0}, "gn_groups must be from 1 to 16384, got 0"),
        ({"activation": "sillu"}, "activation must be one of silu, swish, relu"),
        ({"stem_stride": 3}, "stem_stride must be from 1 to 2, got 3"),
        ({"output_stride": 12}, "output_stride must be one of null, 8, 16, 32, got 12"),
        ({"output_stride": "8"}, "output_stride must be a whole number or null, got '8'"),
        ({"keep_90_percent": 1}, "keep_90_percent must be true or false, got 1"),
        ({"depth_coefficient": 60, "blocks": [{**FUSED, "repeats": 50}]}, "3000 blocks are too"),
    ],
)
def test_a_bad_field_is_named(write, change, message):
    check_refused(write({"blocks": ROWS, **change}), message)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kind": "mbconf"}, "kind must be one of fused, mbconv, got 'mbconf'"),
        ({"stirde": 1}, "has an unknown field 'stirde'; did you mean 'stride'?"),
        ({"repeats": True}, "repeats must be a whole number, got True"),
        ({"repeats": 0}, "repeats must be from 1 to 1000, got 0"),
        ({"repeats": 10**9}, "repeats must be from 1 to 1000, got 1000000000"),
        ({"kernel": 4}, "kernel must be odd, got 4"),
        ({"kernel": -3}, "kernel must be from 1 to 99, got -3"),
        ({"stride": 3}, "stride must be from 1 to 2, got 3"),
        ({"expand": 0}, "expand must be from 1 to 100, got 0"),
        ({"expand": 1.5}, "expand must be a whole number, got 1.5"),
        ({"channels_in": 24}, "channels_in=24 must be the channels of the row before, 8"),
        ({"channels": 10**400}, "channels must be from 1 to 16384, got 1000"),
        ({"se_ratio": 1.5}, "se_ratio must be from 0 to 1, got 1.5"),
        ({"se_ratio": float("-inf")}, "se_ratio must be a number, got -inf"),
    ],
)
def test_a_bad_row_is_named(write, change, message):
    check_refused(
        write({"blocks": [FUSED, {**MBCONV, **change}]}),
        f"blocks[1]: {message}".replace("]: has", "] has"),
    )


@pytest.mark.parametrize("field", list(FUSED))
def test_a_row_needs_all_but_squeeze_and_excite(write, field):
    row = {key: value for key, value in FUSED.items() if key != field}
    check_refused(write({"blocks": [row]}), f"mine.json: blocks[0] lacks {field}; it has ")


def test_every_named_architecture_is_in_bounds():
    for name in efficientnetv2.list_models():
        assert check_spec(get_spec(name), name) is get_spec(name)
