"""Counting from a specification alone gives what counting the built network gives."""

import dataclasses

import keras
import pytest

from efficientnetv2 import Blocks, ModelSpec, build_model
from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams.models import get_spec
from efficientnetv2.network.counts import count
from efficientnetv2.network.profile import layer_costs, profile_built

# Every kind of row: with and without expansion, squeeze-and-excite and stride.
ROWS = (
    Blocks("fused", 1, 3, 1, 1, 16, 8),
    Blocks("fused", 2, 5, 2, 4, 8, 16),
    Blocks("fused", 1, 3, 1, 1, 16, 16, 0.25),
    Blocks("fused", 1, 3, 2, 6, 16, 24, 0.5),
    Blocks("mbconv", 1, 3, 1, 1, 24, 24),
    Blocks("mbconv", 2, 5, 2, 4, 24, 32, 0.25),
    Blocks("mbconv", 1, 3, 2, 6, 32, 40),
)
SPEC = ModelSpec("rows", ROWS, head_channels=64)
CHANGES = {
    "plain": {},
    "odd stem": {"stem_stride": 1},
    "coefficients": {"width_coefficient": 1.3, "depth_coefficient": 1.5, "keep_90_percent": True},
    "group normalisation": {"norm": "group"},
    "dilation": {"output_stride": 8},
    "padding": {"padding": "symmetric"},
}


def check_same(spec, image_size, num_classes):
    shape = (image_size, image_size, 3)
    model = build_model(
        spec, num_classes=num_classes, include_preprocessing=False, input_shape=shape
    )
    built, counted = profile_built(model), count(spec, image_size, num_classes)
    for field in ("params", "trainable_params", "macs", "activations"):
        assert getattr(counted, field) == getattr(built, field), field
    layers = [layer for layer in layer_costs(model, spec) if layer.activations]
    assert counted.layers == len(layers)
    depthwise = sum(layer.macs for layer in layers if "depthwise" in layer.name)
    assert counted.depthwise_macs == depthwise
    keras.backend.clear_session()


@pytest.mark.parametrize("change", CHANGES)
def test_each_kind_of_row_counts_as_it_is_built(change):
    check_same(dataclasses.replace(SPEC, **CHANGES[change]), 45, num_classes=7)


@pytest.mark.parametrize("name", ["efficientnetv2-b0", "efficientnet-b0"])
def test_a_named_network_counts_as_it_is_built(name):
    check_same(get_spec(name), 224, num_classes=1000)


@pytest.mark.parametrize("field, values", [("image_size", (0, 10)), ("num_classes", (32, 0))])
def test_a_size_must_be_positive(field, values):
    with pytest.raises(UserError, match=f"^{field} must be a positive whole number, got 0$"):
        count(SPEC, *values)
