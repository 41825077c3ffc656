"""Options of `build_model`, and the round trip through a `.keras` file."""

import json

import keras
import numpy as np
import pytest
import tiny_run

import efficientnetv2
from efficientnetv2 import hparams
from efficientnetv2.common.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


def test_a_saved_model_gives_equal_logits_when_loaded(tmp_path):
    model = tiny_run.make_model()
    for weight in model.weights:  # Else BatchNorm's initial values would hide a loss.
        weight.assign(weight + 0.1 * np.random.default_rng(1).random(tuple(weight.shape)))
    path = tmp_path / "model.keras"
    model.save(path)
    again = keras.saving.load_model(path)
    np.testing.assert_array_equal(again(PIXELS), model(PIXELS))
    settings = [json.dumps(m.get_config(), sort_keys=True) for m in again.layers]
    assert settings == [json.dumps(m.get_config(), sort_keys=True) for m in model.layers]
    assert again.get_layer("blocks_1").drop_path.rate == pytest.approx(0.1)


@pytest.mark.parametrize("kind", ["centered", "imagenet"])
def test_preprocessing_in_the_model_is_the_normalisation_of_its_weights(kind):
    spec = efficientnetv2.ModelSpec("t", tiny_run.SPEC.blocks, normalization=kind)
    whole = efficientnetv2.build_model(spec, num_classes=5)
    bare = efficientnetv2.build_model(spec, num_classes=5, include_preprocessing=False)
    bare.set_weights(whole.get_weights())
    if kind == "centered":
        manual = (PIXELS.astype(np.float32) - 128) / 128
    else:
        manual = PIXELS / np.float32(255) - np.array([0.485, 0.456, 0.406], np.float32)
        manual = manual / np.array([0.229, 0.224, 0.225], np.float32)
    expected = bare(manual).numpy()
    for pixels in (PIXELS, PIXELS.astype(np.float32)):
        np.testing.assert_allclose(whole(pixels), expected, atol=1e-5 * expected.std())


def test_the_named_models_have_the_normalisation_of_their_weights():
    kinds = {n: efficientnetv2.get_spec(n).normalization for n in efficientnetv2.list_models()}
    v2_base = {f"efficientnetv2-b{i}" for i in range(4)}
    v1 = {name for name in kinds if name.startswith("efficientnet-")}
    assert {n for n, kind in kinds.items() if kind == "imagenet"} == v2_base | v1
    assert set(kinds.values()) == {"imagenet", "centered"}


def test_without_top_the_model_gives_pooled_features():
    model = efficientnetv2.build_model(tiny_run.SPEC, include_top=False)
    whole = tiny_run.make_model()
    model.set_weights(whole.get_weights()[:-2])
    features = model(PIXELS).numpy()
    assert features.shape == (2, 16)
    kernel, bias = whole.get_layer("classifier").get_weights()
    np.testing.assert_allclose(whole(PIXELS), features @ kernel + bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("stride", "size"), [(1, 33), (2, 17)])
def test_stem_stride(stride, size):
    config = hparams.get_config("efficientnetv2-b0", "shapes", f"model.stem_stride={stride}")
    spec = efficientnetv2.spec_from_config(config.model)
    spec = efficientnetv2.ModelSpec("t", tiny_run.SPEC.blocks, stem_stride=spec.stem_stride)
    model = efficientnetv2.build_model(spec, input_shape=(33, 33, 3))
    assert tuple(model.get_layer("stem_act").output.shape) == (None, size, size, 8)


def test_any_image_size_goes_through_one_model():
    model = tiny_run.make_model()
    for size in ((32, 32), (40, 57)):
        assert model(np.zeros((1, *size, 3), np.uint8)).shape == (1, tiny_run.CLASSES)


def test_the_config_decides_the_specification():
    overrides = (
        "model.width_coefficient=1.5,model.depth_coefficient=2,model.act_fn=relu,"
        "model.bn_momentum=0.7,model.bn_epsilon=0.02,model.dropout_rate=0.45,"
        "model.survival_prob=0.7"
    )
    config = hparams.get_config("efficientnetv2-b0", "shapes", overrides)
    spec = efficientnetv2.spec_from_config(config.model)
    assert (spec.width_coefficient, spec.depth_coefficient) == (1.5, 2)
    assert (spec.activation, spec.bn_momentum, spec.bn_epsilon) == ("relu", 0.7, 0.02)
    assert spec.dropout_rate == 0.45
    assert spec.drop_path_rate == pytest.approx(0.3)
    plain = hparams.get_config("efficientnetv2-b2", "shapes").model
    spec = efficientnetv2.spec_from_config(plain)
    assert (spec.width_coefficient, spec.depth_coefficient) == (1.1, 1.2)


def test_rates_given_to_build_model_win():
    model = efficientnetv2.build_model(tiny_run.SPEC, dropout_rate=0.35, drop_path_rate=0.4)
    assert model.get_layer("head_dropout").rate == 0.35
    assert model.get_layer("blocks_1").drop_rate == pytest.approx(0.2)
    assert model.get_layer("blocks_1").drop_path.rate == pytest.approx(0.2)


def test_an_unknown_name_is_a_user_error_that_names_the_nearest():
    with pytest.raises(UserError, match="'efficientnetv2-x'.*'efficientnetv2-xl'"):
        efficientnetv2.build_model("efficientnetv2-x")
    with pytest.raises(UserError, match="unknown model"):
        efficientnetv2.get_spec("resnet")


def test_weights_that_do_not_exist_are_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no checkpoint found"):
        efficientnetv2.build_model(tiny_run.SPEC, weights=str(tmp_path / "none"))


def test_logits_are_float32_under_mixed_precision():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = tiny_run.make_model()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert model.get_layer("blocks_1").compute_dtype == "bfloat16"
    assert model(PIXELS).dtype == "float32"
