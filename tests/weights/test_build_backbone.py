"""Networks for downstream work: the feature pyramid, strides, channels, norms, sizes."""

import golden
import keras
import numpy as np
import pytest

from efficientnetv2 import Blocks, ModelSpec, build_backbone, build_model
from efficientnetv2.common.errors import UserError
from efficientnetv2.network.compat import var_path
from efficientnetv2.weights.tf_checkpoint import official_names

SPEC = ModelSpec(
    "five_levels",
    (
        Blocks("fused", 1, 3, 1, 1, 8, 8),
        Blocks("fused", 2, 3, 2, 2, 8, 16),
        Blocks("mbconv", 2, 5, 2, 2, 16, 16, se_ratio=0.25),
        Blocks("mbconv", 2, 3, 2, 2, 16, 24, se_ratio=0.25),
        Blocks("mbconv", 1, 3, 1, 2, 24, 24, se_ratio=0.25),
        Blocks("mbconv", 2, 3, 2, 2, 24, 32, se_ratio=0.25),
    ),
    head_channels=16,
)


def randomise(model, seed=0):
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        value = rng.normal(0, 0.3, tuple(weight.shape)).astype(np.float32)
        weight.assign(np.abs(value) + 0.5 if "variance" in var_path(weight) else value)


def images(size, channels=3, seed=1):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 255, (2, size, size, channels)).astype(np.float32)


@pytest.mark.parametrize("name", golden.NAMES)
def test_levels_are_the_official_endpoints(name):
    figures = golden.load_golden(name)
    backbone = build_backbone(name, levels=(1, 2, 3, 4, 5), include_preprocessing=False)
    names = official_names(backbone)
    for weight in backbone.weights:
        official = f"{name}/{names[var_path(weight)]}"
        value = golden.golden_weight(official, tuple(weight.shape), figures["gain"])
        weight.assign(value)
    features = backbone(golden.golden_input(figures["size"]), training=False)
    assert list(features) == [f"reduction_{level}" for level in (1, 2, 3, 4, 5)]
    for level, expected in enumerate(figures["endpoints"], 1):
        found = np.asarray(features[f"reduction_{level}"])
        assert list(found.shape) == expected["shape"]
        np.testing.assert_allclose(found.mean(), expected["mean"], atol=1e-4 * expected["std"])
        np.testing.assert_allclose(found.std(), expected["std"], rtol=1e-3)


def test_a_backbone_gives_the_levels_asked_for_and_no_more():
    backbone = build_backbone(SPEC)
    shapes = {name: x.shape[1:] for name, x in backbone(images(64)).items()}
    assert shapes == {
        "reduction_2": (16, 16, 16),
        "reduction_3": (8, 8, 16),
        "reduction_4": (4, 4, 24),
        "reduction_5": (2, 2, 32),
    }
    low = build_backbone(SPEC, levels=(2,))
    assert {layer.name for layer in low.layers if "blocks" in layer.name} == {
        "blocks_0",
        "blocks_1",
        "blocks_2",
    }


def test_a_backbone_shares_the_weights_of_the_network(tmp_path):
    model = build_model(SPEC, num_classes=3)
    randomise(model)
    from efficientnetv2.training.checkpoint import RunCheckpoint

    RunCheckpoint(str(tmp_path), model, {}, None, keep=1).save(1)
    backbone = build_backbone(SPEC, levels=(3,), weights=str(tmp_path))
    inside = keras.Model(model.input, model.get_layer("blocks_4").output)
    x = images(32)
    np.testing.assert_allclose(
        np.asarray(backbone(x)["reduction_3"]), np.asarray(inside(x)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": (2, 6)}, "five_levels has no reduction level 6; its levels are 1, 2, 3, 4, 5"),
        ({"levels": ()}, "levels must name at least one"),
        ({"num_classes": 3}, "a backbone has no classifier"),
    ],
)
def test_impossible_backbones_are_user_errors(arguments, message):
    with pytest.raises(UserError, match=message):
        build_backbone(SPEC, **arguments)


def test_features_without_a_classifier():
    model = build_model(SPEC, include_top=False)
    features = np.asarray(model(images(32)))
    assert features.shape == (2, 16)
    assert all(layer.name != "classifier" for layer in model.layers)


@pytest.mark.parametrize(("output_stride", "smallest"), [(8, 8), (16, 4), (32, 2), (None, 2)])
def test_output_stride_limits_how_small_features_get(output_stride, smallest):
    backbone = build_backbone(SPEC, output_stride=output_stride)
    sizes = [x.shape[1] for x in backbone(images(64)).values()]
    assert sizes == [max(size, smallest) for size in (16, 8, 4, 2)]


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_dilation_sees_the_pixels_that_strides_saw(padding):
    """The features of stride 8 contain those of stride 32, away from the border.

    With even sizes the strided output looks at odd pixels under SAME padding, at even ones under
    symmetric padding, per halving: the offsets add up to 3 of 4 pixels, or 0.
    """
    spec = ModelSpec(
        "no_se",
        (
            Blocks("fused", 1, 3, 2, 2, 8, 16),
            Blocks("mbconv", 2, 5, 2, 2, 16, 24),
            Blocks("fused", 2, 3, 2, 2, 24, 32),
            Blocks("mbconv", 1, 3, 1, 2, 32, 16),
        ),
    )
    strided = build_model(spec, include_top=False, padding=padding)
    dilated = build_model(spec, include_top=False, padding=padding, output_stride=4)
    randomise(strided)
    dilated.set_weights(strided.get_weights())
    size = 256
    coarse, fine = (
        np.asarray(keras.Model(m.input, m.get_layer("blocks_5").output)(images(size)))
        for m in (strided, dilated)
    )
    assert coarse.shape[1] == size // 16
    assert fine.shape[1] == size // 4
    offset = 3 if padding == "same" else 0
    inner = slice(6, 10)
    picked = fine[:, offset::4, offset::4]
    np.testing.assert_allclose(
        picked[:, inner, inner], coarse[:, inner, inner], rtol=1e-3, atol=1e-3
    )


def test_a_stem_of_stride_1_keeps_small_images_large():
    features = build_backbone(SPEC, stem_stride=1)(images(32))
    assert [x.shape[1] for x in features.values()] == [16, 8, 4, 2]


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("normalization", ["centered", "imagenet"])
def test_other_numbers_of_channels(channels, normalization):
    model = build_model(SPEC, num_classes=3, in_channels=channels, normalization=normalization)
    assert model.input_shape == (None, None, None, channels)
    x = images(32, channels)
    assert np.asarray(model(x)).shape == (2, 3)
    layer = keras.Model(model.input, model.get_layer("normalization").output)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    if channels == 1:
        mean, std = [np.mean(mean)], [np.mean(std)]
    expected = (x - 128) / 128
    if normalization == "imagenet":
        turns = [i % len(mean) for i in range(channels)]
        expected = (x / 255 - np.array(mean)[turns]) / np.array(std)[turns]
    np.testing.assert_allclose(np.asarray(layer(x)), expected, rtol=1e-4, atol=1e-5)


def test_channels_may_be_given_once():
    model = build_model(SPEC, num_classes=3, input_shape=(32, 32, 4))
    assert model.input_shape == (None, 32, 32, 4)
    with pytest.raises(UserError, match="in_channels=1 contradicts input_shape"):
        build_model(SPEC, input_shape=(32, 32, 4), in_channels=1)


def test_inception_normalization_maps_to_plus_and_minus_one():
    model = build_model(SPEC, normalization="inception")
    layer = keras.Model(model.input, model.get_layer("normalization").output)
    ends = np.asarray(layer(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1).repeat(3, -1)))
    np.testing.assert_allclose(ends[:, 0, 0, 0], [-1, 1], atol=1e-6)


def test_group_norm_needs_no_batch():
    """Examples do not influence each other, in training either."""
    model = build_model(SPEC, num_classes=3, norm="group", dropout_rate=0.0, drop_path_rate=0.0)
    assert not any("moving" in var_path(w) for w in model.weights)
    randomise(model)
    x = images(32)
    together = np.asarray(model(x, training=True))
    alone = np.asarray(model(x[:1], training=True))
    np.testing.assert_allclose(together[:1], alone, rtol=1e-3, atol=1e-4)
    batch = build_model(SPEC, num_classes=3, dropout_rate=0.0, drop_path_rate=0.0)
    randomise(batch)
    together, alone = (np.asarray(batch(examples, training=True))[:1] for examples in (x, x[:1]))
    assert np.abs(together - alone).max() > 1e-3


def test_fixed_and_dynamic_sizes_agree():
    dynamic = build_model(SPEC, num_classes=3)
    fixed = build_model(SPEC, num_classes=3, input_shape=(48, 40, 3))
    randomise(dynamic)
    fixed.set_weights(dynamic.get_weights())
    x = images(48)[:, :, :40]
    np.testing.assert_allclose(np.asarray(dynamic(x)), np.asarray(fixed(x)), rtol=1e-5, atol=1e-5)
    assert fixed.get_layer("blocks_8").output.shape[1:] == (2, 2, 32)
    assert np.asarray(dynamic(images(33))).shape == (2, 3)
