"""RandAugment, AutoAugment and both: what they draw, how often, and from which seed."""

import re

import numpy as np
import pytest
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.augment import policies
from efficientnetv2.datasets.augment.policies import (
    OP_NAMES,
    Action,
    apply_op,
    apply_policy,
    auto_augment,
    either,
    policies_of,
    rand_augment,
)
from efficientnetv2.hparams import DataConfig
from efficientnetv2.hparams.config import FINE_TUNING_POLICIES, POLICIES

SEED = tf.constant([7, 11], tf.int64)
MOVING = {"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"}
ENHANCEMENTS = {"Color", "Contrast", "Brightness", "Sharpness"}
# official_semantics.md, section 5.4.
V0 = """
1 Equalize(.8,1) ShearY(.8,4) · 2 Color(.4,9) Equalize(.6,3) · 3 Color(.4,1) Rotate(.6,8) ·
4 Solarize(.8,3) Equalize(.4,7) · 5 Solarize(.4,2) Solarize(.6,2) · 6 Color(.2,0) Equalize(.8,8) ·
7 Equalize(.4,8) SolarizeAdd(.8,3) · 8 ShearX(.2,9) Rotate(.6,8) · 9 Color(.6,1) Equalize(1,2) ·
10 Invert(.4,9) Rotate(.6,0) · 11 Equalize(1,9) ShearY(.6,3) · 12 Color(.4,7) Equalize(.6,0) ·
13 Posterize(.4,6) AutoContrast(.4,7) · 14 Solarize(.6,8) Color(.6,9) ·
15 Solarize(.2,4) Rotate(.8,9) · 16 Rotate(1,7) TranslateY(.8,9) · 17 ShearX(0,0) Solarize(.8,4) ·
18 ShearY(.8,0) Color(.6,4) · 19 Color(1,0) Rotate(.6,2) · 20 Equalize(.8,4) Equalize(0,8) ·
21 Equalize(1,4) AutoContrast(.6,2) · 22 ShearY(.4,7) SolarizeAdd(.6,7) ·
23 Posterize(.8,2) Solarize(.6,10) · 24 Solarize(.6,8) Equalize(.6,1) · 25 Color(.8,6) Rotate(.4,5)
"""


def parse_v0():
    pairs = []
    for number, entry in enumerate(V0.split("·"), start=1):
        steps = re.findall(r"([A-Za-z]+)\(([.\d]+),(\d+)\)", entry)
        assert int(entry.split()[0]) == number and len(steps) == 2
        pairs.append(tuple((name, float(chance), int(level)) for name, chance, level in steps))
    return pairs


def drawn_actions(policy, number, seed=SEED):
    """What was drawn for each image and layer: an array [number, layers] of actions."""
    draws = policy.draw(number, seed)
    assert draws.action.dtype == tf.int32
    assert draws.center.shape == (number, policy.num_layers, 2)
    actions = np.empty(len(policy.actions), object)
    actions[:] = policy.actions
    return actions[draws.action.numpy()]


def uniform_of(pair):
    """Random numbers by which AutoAugment chooses the given pair; others vary over [0, 1)."""
    uniform = np.random.default_rng(0).random((1000, 2, 6)).astype(np.float32)
    uniform[:, 0, 0] = (pair + 0.5) / 25
    uniform[..., 2] = (np.arange(1000)[:, None] + 0.5) / 1000
    return tf.constant(uniform)


def test_rand_augment_draws_operations_and_signs_uniformly():
    for op_set, signed in (("official", MOVING), ("corrected", MOVING | ENHANCEMENTS)):
        policy = rand_augment(9.0, op_set=op_set)
        drawn = drawn_actions(policy, 16_000)
        for layer in range(2):
            names = np.array([action.op for action in drawn[:, layer]])
            for name in OP_NAMES:
                assert 880 < (names == name).sum() < 1120  # 1000 expected, deviation 31
        for name in OP_NAMES:
            signs = [action.sign for action in drawn.ravel() if action.op == name]
            assert set(signs) == ({1.0, -1.0} if name in signed else {1.0})
            assert abs(np.mean(signs)) < 0.1 or name not in signed  # deviation 0.022
        index = np.vectorize(lambda action: OP_NAMES.index(action.op))(drawn)
        assert abs(np.corrcoef(index.T)[0, 1]) < 0.03  # layers are independent
        assert all(action.magnitude == 9.0 for action in policy.actions)
        assert all(action[3:] == (100.0, 40.0) for action in policy.actions)
        assert len(set(policy.actions)) == len(policy.actions) == 16 + len(signed)


def test_cutout_goes_anywhere():
    center = rand_augment(9.0).draw(5000, SEED).center.numpy().reshape(-1, 2)
    assert center.min() >= 0 and center.max() < 1
    np.testing.assert_allclose(center.mean(axis=0), 0.5, atol=0.02)
    np.testing.assert_allclose(center.var(axis=0), 1 / 12, atol=0.005)
    assert abs(np.corrcoef(center.T)[0, 1]) < 0.05


@pytest.mark.parametrize(
    "policy", [rand_augment(9.0), auto_augment(), either(rand_augment(9.0), auto_augment())]
)
def test_where_does_not_depend_on_what(policy):
    """Places of images whose first layer drew a low, or a high, index of an action."""
    draws = policy.draw(8000, SEED)
    low = draws.action.numpy()[:, 0] < np.median(draws.action.numpy()[:, 0])
    for layer in range(2):
        place = draws.center.numpy()[:, layer]
        assert np.all(np.abs(place[low].mean(axis=0) - place[~low].mean(axis=0)) < 0.04)


def test_constants_can_be_given():
    for make in (auto_augment, lambda **settings: rand_augment(5.0, **settings)):
        policy = make(translate_const=12.0, cutout_const=0.0)
        consts = {action[3:] for action in policy.actions if action.op is not None}
        assert consts == {(12.0, 0.0)}


@pytest.mark.parametrize("magnitude", [-1.0, 30.1, float("nan")])
def test_magnitude_out_of_range(magnitude):
    with pytest.raises(UserError, match="magnitude"):
        rand_augment(magnitude)


def test_the_table_is_that_of_the_specification():
    assert list(policies.AUTO_AUGMENT_V0) == parse_v0()
    assert len(parse_v0()) == 25


@pytest.mark.parametrize(
    "op_set, signed", [("official", MOVING), ("corrected", MOVING | {"Color"})]
)
@pytest.mark.parametrize("pair", range(25))
def test_each_pair_has_its_chances_and_levels(pair, op_set, signed):
    policy = auto_augment(op_set=op_set)
    chosen = policy.choose(uniform_of(pair)).numpy()
    for layer, (name, chance, level) in enumerate(parse_v0()[pair]):
        actions = [policy.actions[index] for index in chosen[:, layer]]
        applied = [action for action in actions if action.op is not None]
        assert len(applied) == round(1000 * chance)
        signs = (1.0, -1.0) if name in signed else (1.0,)
        expected = {Action(name, float(level), sign, 250.0, 100.0) for sign in signs}
        assert set(applied) == (expected if chance else set())
        if len(signs) == 2 and chance:
            assert abs(np.mean([action.sign for action in applied])) < 0.2


def test_auto_augment_draws_the_pairs_uniformly():
    """Each pair that can be told from the others by its actions when both are applied."""
    drawn = drawn_actions(auto_augment(), 25_000)
    steps = [tuple((action.op, action.magnitude) for action in row) for row in drawn]
    expected = {}
    for first, second in parse_v0():
        both = (first[0], first[2]), (second[0], second[2])
        expected[both] = expected.get(both, 0) + 1000 * first[1] * second[1]
    for both, number in expected.items():
        assert abs(steps.count(both) - number) <= 5 * number**0.5, both
    idle = sum((1 - first[1]) * (1 - second[1]) for first, second in parse_v0()) / 25
    unchanged = np.mean([row[0].op is None and row[1].op is None for row in drawn])
    assert unchanged == pytest.approx(idle, abs=0.01)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_either_is_one_half_each(layers):
    first, second = rand_augment(9.0, num_layers=layers), auto_augment()
    policy = either(first, second)
    assert policy.num_layers == max(layers, 2)
    draws = policy.draw(8000, SEED).action.numpy()
    of_second = (draws >= len(first.actions)) & (draws < len(first.actions + second.actions))
    rest = draws == len(policy.actions) - 1
    heads = ~of_second[:, 0]
    assert 0.47 < heads.mean() < 0.53  # deviation 0.006
    assert not of_second[heads].any() and of_second[~heads, :2].all()
    assert not rest[heads, :layers].any() and rest[heads, layers:].all()
    assert rest[~heads, 2:].all()
    # Each half is drawn as its policy alone draws.
    ours = drawn_actions(policy, 8000)
    names = [action.op for action in ours[heads, 0]]
    assert all(0.7 < 16 * names.count(name) / len(names) < 1.3 for name in OP_NAMES)
    assert {action[3:] for action in ours[heads, 0]} == {(100.0, 40.0)}
    consts = {action[3:] for action in ours[~heads, :2].ravel() if action.op}
    assert consts == {(250.0, 100.0)}
    theirs = drawn_actions(second, 8000)
    for layer in range(2):
        idle = np.mean([action.op is None for action in theirs[:, layer]])
        ours_idle = np.mean([action.op is None for action in ours[~heads, layer]])
        assert ours_idle == pytest.approx(idle, abs=0.03)


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_number_of_layers(layers):
    policy = rand_augment(9.0, num_layers=layers)
    assert policy.num_layers == layers
    assert policy.draw(3, SEED).action.shape == (3, layers)
    assert auto_augment().num_layers == 2


@pytest.mark.parametrize(
    "policy", [rand_augment(9.0), auto_augment(), either(rand_augment(9.0), auto_augment())]
)
def test_draws_are_a_function_of_the_seed(policy):
    first = policy.draw(64, SEED)
    inside = tf.data.Dataset.from_tensors(SEED).map(lambda seed: policy.draw(64, seed))
    for same in (policy.draw(64, SEED), next(iter(inside))):
        np.testing.assert_array_equal(first.action, same.action)
        np.testing.assert_array_equal(first.center, same.center)
    for other in (SEED + [0, 1], SEED + [1, 0]):
        assert np.any(first.action != policy.draw(64, other).action)
        assert np.all(first.center != policy.draw(64, other).center)


@pytest.mark.parametrize("op_set", ["official", "corrected"])
def test_only_what_was_drawn_changes_an_image(op_set):
    """And with exactly the drawn operations; AutoAugment, whose layers may be idle."""
    policy, number = auto_augment(op_set=op_set, translate_const=20.0), 60
    images = np.random.default_rng(0).integers(0, 256, (number, 24, 20, 3)).astype(np.uint8)
    results = apply_policy(policy, tf.constant(images), policy.draw(number, SEED), op_set).numpy()
    idle = 0
    for image, result, actions in zip(images, results, drawn_actions(policy, number)):
        expected = image
        for op, magnitude, sign, translate_const, _ in actions:
            if op is not None:
                consts = {"op_set": op_set, "translate_const": translate_const}
                expected = apply_op(op, expected, magnitude, sign < 0, **consts).numpy()
        np.testing.assert_array_equal(result, expected)
        if all(action.op is None for action in actions):
            np.testing.assert_array_equal(result, image)
            idle += 1
    assert 0 < idle < number / 2


@pytest.mark.parametrize("augname", [None, *POLICIES, *FINE_TUNING_POLICIES])
def test_policies_by_name(augname):
    found = policies_of(DataConfig(augname=augname, ra_num_layers=3), 7.0)
    if augname == "ra_aa":
        both = auto_augment().actions + rand_augment(7.0).actions
        assert set(found[0].actions) == set(both) and len(found) == 1
    else:
        kinds = [{2: "autoaug", 3: "randaug"}[policy.num_layers] for policy in found]
        assert kinds == [kind for kind in ("autoaug", "randaug") if kind in (augname or "")]


def test_policies_have_the_settings_of_the_config():
    data = DataConfig(augname="ra_aa", op_set="corrected", translate_const=9.0, cutout_const=4.0)
    (policy,) = policies_of(data, 7.0)
    actions = [action for action in policy.actions if action.op is not None]
    assert {action[3:] for action in actions} == {(9.0, 4.0)}
    assert Action("Color", 7.0, -1.0, 9.0, 4.0) in actions  # only the corrected set
    (policy,) = policies_of(DataConfig(augname="ra_aa"), 7.0)
    consts = {action[3:] for action in policy.actions if action.op is not None}
    assert consts == {(100.0, 40.0), (250.0, 100.0)}
