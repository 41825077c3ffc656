"""Costs against formulas written out by hand."""

import keras
import pytest

from efficientnetv2 import Blocks, ModelSpec, build_model
from efficientnetv2.common.errors import UserError
from efficientnetv2.network.profile import layer_costs

layers = keras.layers

TINY = ModelSpec(
    "tiny",
    (
        Blocks("fused", repeats=1, kernel=3, stride=1, expand=1, channels_in=8, channels=8),
        Blocks("fused", repeats=1, kernel=3, stride=2, expand=4, channels_in=8, channels=16),
        Blocks("mbconv", 2, 5, stride=2, expand=4, channels_in=16, channels=24, se_ratio=0.25),
    ),
    head_channels=32,
)
BN = 4  # Numbers per channel: scale, offset, moving mean, moving variance.


@pytest.fixture(scope="module")
def tiny():
    return build_model(TINY, num_classes=10, include_preprocessing=False, input_shape=(32, 32, 3))


def totals(costs, what):
    """The sum of one kind of cost per part, in the order of the parts."""
    parts = dict.fromkeys(cost.part for cost in costs)
    return {part: sum(getattr(c, what) for c in costs if c.part == part) for part in parts}


def test_multiply_adds_of_each_stage(tiny):
    first = (16 * 64) * 8 * 8 + (5 * 5 * 64) * 4 * 4 + 2 * (64 * 4) + (64 * 24) * 4 * 4
    second = (24 * 96) * 4 * 4 + (5 * 5 * 96) * 4 * 4 + 2 * (96 * 6) + (96 * 24) * 4 * 4
    assert totals(layer_costs(tiny, TINY), "macs") == {
        "stem": (3 * 3 * 3 * 8) * 16 * 16,
        "stage 1": (3 * 3 * 8 * 8) * 16 * 16,
        "stage 2": (3 * 3 * 8 * 32) * 8 * 8 + (32 * 16) * 8 * 8,
        "stage 3": first + second,
        "head": (24 * 32) * 4 * 4,
        "classifier": 32 * 10,
    }


def test_activations_of_each_stage(tiny):
    first = 64 * 8 * 8 + 64 * 4 * 4 + (4 + 64) + 24 * 4 * 4
    second = 96 * 4 * 4 + 96 * 4 * 4 + (6 + 96) + 24 * 4 * 4
    assert totals(layer_costs(tiny, TINY), "activations") == {
        "stem": 8 * 16 * 16,
        "stage 1": 8 * 16 * 16,
        "stage 2": 32 * 8 * 8 + 16 * 8 * 8,
        "stage 3": first + second,
        "head": 32 * 4 * 4,
        "classifier": 10,
    }


def test_parameters_of_each_stage(tiny):
    first = 16 * 64 + 5 * 5 * 64 + (64 * 4 + 4) + (4 * 64 + 64) + 64 * 24 + BN * (64 + 64 + 24)
    second = 24 * 96 + 5 * 5 * 96 + (96 * 6 + 6) + (6 * 96 + 96) + 96 * 24 + BN * (96 + 96 + 24)
    costs = layer_costs(tiny, TINY)
    assert totals(costs, "params") == {
        "stem": 3 * 3 * 3 * 8 + BN * 8,
        "stage 1": 3 * 3 * 8 * 8 + BN * 8,
        "stage 2": 3 * 3 * 8 * 32 + 32 * 16 + BN * (32 + 16),
        "stage 3": first + second,
        "head": 24 * 32 + BN * 32,
        "classifier": 32 * 10 + 10,
    }
    assert sum(cost.params for cost in costs) == tiny.count_params()


def test_layers_are_named_by_their_block_and_step(tiny):
    costs = {cost.name: cost for cost in layer_costs(tiny, TINY)}
    assert list(costs)[:4] == [
        "stem_conv",
        "stem_bn",
        "blocks_0/project_conv",
        "blocks_0/project_bn",
    ]
    assert costs["blocks_3/se/reduce_conv"].macs == 96 * 6
    assert costs["blocks_3/depthwise_bn"].params == BN * 96
    assert costs["blocks_3/depthwise_bn"].macs == 0


def test_without_a_specification_parts_are_resolutions(tiny):
    with_spec, without = (totals(layer_costs(tiny, spec), "macs") for spec in (TINY, None))
    assert list(without) == ["16x16", "8x8", "4x4", "classifier"]
    assert without["16x16"] == with_spec["stem"] + with_spec["stage 1"]
    # The first block of stage 3 halves the image after its expansion.
    assert without["8x8"] == with_spec["stage 2"] + (16 * 64) * 8 * 8
    assert sum(without.values()) == sum(with_spec.values())


def test_built_in_layers():
    inputs = keras.Input((16, 16, 4))
    grouped = layers.Conv2D(8, 3, strides=2, groups=2, name="grouped")(inputs)  # 7 x 7
    depthwise = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise")
    wide = depthwise(grouped)  # 16 channels
    separable = layers.SeparableConv2D(6, (3, 5), depth_multiplier=2, name="separable")(wide)
    normal = layers.LayerNormalization(name="norm")(separable)  # 5 x 3
    nested = keras.Sequential([layers.Conv2D(6, 1, name="conv"), layers.ReLU()], name="nested")
    shared = layers.Conv2D(6, 3, padding="same", name="shared")
    x = shared(nested(normal))
    x = shared(x) + x
    x = layers.Conv2DTranspose(2, 3, strides=2, padding="same", name="up")(x)  # 10 x 6
    x = layers.PReLU(name="prelu")(layers.BatchNormalization(name="bn")(x))
    x = layers.Dense(5, name="dense")(layers.Flatten()(x))
    model = keras.Model(inputs, x)
    costs = {cost.name: cost for cost in layer_costs(model)}

    assert {name: cost.macs for name, cost in costs.items() if cost.macs} == {
        "grouped": (3 * 3 * 2 * 8) * 7 * 7,
        "depthwise": (3 * 3 * 16) * 7 * 7,
        "separable": (3 * 5 * 32) * 5 * 3 + (32 * 6) * 5 * 3,
        "nested/conv": (6 * 6) * 5 * 3,
        "shared": 2 * (3 * 3 * 6 * 6) * 5 * 3,
        "up": (3 * 3 * 6 * 2) * 5 * 3,
        "dense": (10 * 6 * 2) * 5,
    }
    assert {name: cost.activations for name, cost in costs.items() if cost.activations} == {
        "grouped": 8 * 7 * 7,
        "depthwise": 16 * 7 * 7,
        "separable": 32 * 5 * 3 + 6 * 5 * 3,
        "nested/conv": 6 * 5 * 3,
        "shared": 2 * 6 * 5 * 3,
        "up": 2 * 10 * 6,
        "dense": 5,
    }
    assert sum(cost.params for cost in costs.values()) == model.count_params()
    assert list(totals(costs.values(), "macs")) == ["7x7", "5x3", "10x6", "classifier"]


def test_a_sequential_model():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2)]
    )
    assert [cost.macs for cost in layer_costs(model)] == [(3 * 3 * 3 * 4) * 6 * 6, (4 * 6 * 6) * 2]


class Mystery(layers.Layer):
    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1],), name="kernel")

    def call(self, inputs):
        return inputs * self.kernel


def mystery(x):
    return Mystery(name="mystery")(x)


@pytest.mark.parametrize(
    "shape, make, named",
    [
        ((8, 8, 3), mystery, "mystery is a Mystery"),
        (
            (8, 8, 3),
            lambda x: keras.Sequential([layers.Conv2D(2, 1), Mystery(name="m")])(x),
            "/m is",
        ),
        ((8, 3), layers.Conv1D(2, 3, name="line"), "line is a Conv1D"),
        ((None, None, 3), layers.Conv2D(2, 3, name="conv"), "conv has no fixed input size"),
        (
            (3, 8, 8),
            layers.DepthwiseConv2D(1, data_format="channels_first", name="first"),
            "first has its channels first",
        ),
    ],
)
def test_what_cannot_be_counted_is_an_error_that_names_it(shape, make, named):
    inputs = keras.Input(shape)
    with pytest.raises(UserError, match=named):
        layer_costs(keras.Model(inputs, make(inputs)))


def test_a_model_whose_layers_cannot_be_listed_is_an_error():
    class Subclassed(keras.Model):
        pass

    with pytest.raises(UserError, match="mine is no functional model"):
        layer_costs(Subclassed(name="mine"))


def test_a_specification_with_other_blocks_is_an_error(tiny):
    other = ModelSpec("other", TINY.blocks, depth_coefficient=2.0)
    with pytest.raises(UserError, match="the model has 4 blocks and other has 8"):
        layer_costs(tiny, other)
