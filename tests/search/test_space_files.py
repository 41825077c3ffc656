"""Search spaces as JSON: what may be left out, and each kind of bad file."""

import copy
import json
import pathlib
import subprocess
import sys

import pytest

from efficientnetv2.common.errors import UserError
from efficientnetv2.search.space import choices, load_space, space_names

ROOT = pathlib.Path(__file__).parents[2]
LEAST = {
    "backbones": [
        {
            "name": "only",
            "channels_in": 16,
            "head_channels": 64,
            "stages": [
                {"channels": 16, "stride": 1, "repeats": [1, 2]},
                {"channels": 24, "stride": 2, "repeats": [1]},
            ],
        }
    ],
    "baseline": "efficientnetv2-b0",
}


@pytest.fixture
def load(tmp_path):
    """Writes a space as a file and loads it."""

    def loaded(content):
        path = tmp_path / "mine.json"
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
        return load_space(str(path))

    return loaded


def changed(*path_and_value):
    """LEAST with a value at a path."""
    *path, last, value = path_and_value
    content = copy.deepcopy(LEAST)
    part = content
    for key in path:
        part = part[key]
    part[last] = value
    return content


def test_the_named_spaces():
    assert space_names() == ["cifar", "paper"]
    assert all(load_space(name).name == name for name in space_names())


def test_what_is_left_out_is_the_papers(load):
    space = load(LEAST)
    assert space.name == "mine"
    assert choices(space) == {
        "stage1.kind": ("mbconv", "fused"),
        "stage1.repeats": (1, 2),
        "stage1.kernel": (3, 5),
        "stage1.expand": (1, 4, 6),
        "stage2.kind": ("mbconv", "fused"),
        "stage2.kernel": (3, 5),
        "stage2.expand": (1, 4, 6),
    }


def test_what_is_given_once_holds_for_stages_without_their_own(load):
    content = changed("backbones", 0, "stages", 0, "kernels", [7])
    content |= {"kernels": [5], "kinds": ["fused"], "constants": {"stem_stride": 1}}
    content["se_ratios"] = {"fused": [0, 0.25]}
    content["activations"] = ["relu", "silu"]
    space = load(content)
    [backbone] = space.backbones
    assert [stage.kernels for stage in backbone.stages] == [(7,), (5,)]
    assert {stage.kinds for stage in backbone.stages} == {("fused",)}
    assert backbone.constants == {"stem_stride": 1}
    assert space.se_ratios == {"mbconv": (0.25,), "fused": (0, 0.25)}
    assert choices(space)["se.fused"] == (0, 0.25)
    assert choices(space)["activation"] == ("relu", "silu")


def test_the_example_of_the_documentation_is_a_space(load):
    text = (ROOT / "docs/search.md").read_text(encoding="utf-8")
    example = text.partition("```json\n")[2].partition("```")[0]
    parameters = choices(load(example))
    assert parameters["stage1.repeats"] == (1, 2, 3)
    assert parameters["stage2.repeats"] == (2, 4)
    assert "stage2.kernel" not in parameters


def test_a_backbones_own_constants_win(load):
    content = changed("backbones", 0, "constants", {"dropout_rate": 0.4})
    content["constants"] = {"dropout_rate": 0.1, "stem_stride": 1}
    assert load(content).backbones[0].constants == {"dropout_rate": 0.4, "stem_stride": 1}


STAGE = ("backbones", 0, "stages", 1)


def test_the_deepest_network_of_all_must_be_possible(load):
    content = changed("backbones", 0, "stages", 0, "repeats", [1, 600])
    content["backbones"][0]["stages"][1]["repeats"] = [1, 600]
    with pytest.raises(UserError, match="1200 blocks are too many; at most 1000 are built"):
        load(content)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "is no JSON"),
        ("[]", "must hold an object of fields, got []"),
        ({"baseline": "x"}, 'needs "backbones", a list of at least one'),
        ({"backbones": LEAST["backbones"]}, "lacks baseline; it has"),
        (changed("kernel", [3]), "has an unknown field 'kernel'; did you mean 'kernels'?"),
        (changed("kernels", 3), "kernels must be a list of different whole numbers, got 3"),
        (changed("kernels", []), "kernels must be a list of different whole numbers, got []"),
        (changed("kernels", [3, 3]), "kernels must be a list of different whole numbers, got"),
        (changed("kernels", [3, 4]), "blocks[0]: kernel must be odd, got 4"),
        (changed("kinds", ["fusd"]), "kinds has an unknown kind 'fusd'; did you mean 'fused'?"),
        (changed("expands", [0]), "blocks[0]: expand must be from 1 to 100, got 0"),
        (changed(*STAGE, "repeats", [1, 1000]), "blocks are too many; at most 1000"),
        (changed(*STAGE, "stride", 3), "blocks[1]: stride must be from 1 to 2, got 3"),
        (changed(*STAGE, "channels", 20), "stages[1]: channels must be a multiple of 8"),
        (changed(*STAGE, "width", 20), "stages[1] has an unknown field 'width'"),
        (changed(*STAGE[:3], 1, {"stride": 1}), "stages[1] lacks channels"),
        (changed(*STAGE[:3], []), 'backbones[0] needs "stages", a list of at least one'),
        (changed("backbones", 0, "channels_in", 0), "channels_in must be a multiple of 8"),
        (changed("backbones", LEAST["backbones"] * 2), "backbones must have different names"),
        (changed("constants", {"blocks": []}), "constants has an unknown field 'blocks'"),
        (changed("constants", {"activation": "relu"}), "constants has an unknown field 'activ"),
        (changed("constants", {"norm": "layer"}), "norm must be one of batch, group, got 'layer'"),
        (changed("activations", ["gelu"]), "activation must be one of silu, "),
        (changed("se_ratios", {"mbconv": [2]}), "se_ratio must be from 0 to 1, got 2"),
        (changed("se_ratios", {"depthwise": [0]}), "se_ratios has an unknown kind 'depthwise'"),
        (changed("baseline", 3), "baseline must be the name of an architecture or an object"),
        (changed("baseline", "efficientnetv2-z"), "unknown model 'efficientnetv2-z'; did you"),
        (changed("baseline", {"stage1.kind": "fused"}), "mine needs stage1.repeats, one of 1, 2"),
        (changed("name", 3), "name must be a text, got 3"),
    ],
)
def test_a_bad_file_is_one_line(load, content, message):
    with pytest.raises(UserError) as error:
        load(content)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_name_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match="unknown search space 'cifer'; did you mean 'cifar'?"):
        load_space("cifer")
    with pytest.raises(UserError, match="cannot read the search space .*/none.json: No such file"):
        load_space(str(tmp_path / "none.json"))


def test_a_space_and_its_networks_need_no_keras():
    """A worker that only proposes networks stays small."""
    code = (
        "import sys, efficientnetv2.search.cost_model, efficientnetv2.search.scaling\n"
        "from efficientnetv2.search import space\n"
        "found = space.load_space('cifar')\n"
        "space.baseline_spec(found)\n"
        "print([name for name in ('keras', 'tensorflow') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[]\n", 0)
