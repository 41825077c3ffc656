"""The SavedModel: its contract, its answers, and that it is whole or not there."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_run
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

import efficientnetv2.export.saved_model
from efficientnetv2 import build_model, hparams
from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.preprocess import preprocess_eval
from efficientnetv2.export.compare import ExportMismatch
from efficientnetv2.export.saved_model import compare_with_model, export_saved_model
from efficientnetv2.export.serving import ServingModule

SIZE = 32
NAMES = [f"class {index}".encode() for index in range(tiny_run.CLASSES)]


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(exported)


def expected_scores(model, config, encoded):
    data = config.data
    pixels = [
        preprocess_eval(e, SIZE, crop=data.eval_crop, resize_method=data.resize_method, exact=True)
        for e in encoded
    ]
    logits = model.predict(np.stack(pixels), verbose=0)
    return tf.nn.softmax(logits).numpy()


def test_signatures_have_the_names_types_and_shapes_of_the_contract(loaded):
    def spec(tensors):
        return {name: (t.dtype.name, t.shape.as_list()) for name, t in tensors.items()}

    answers = {
        "scores": ("float32", [None, tiny_run.CLASSES]),
        "classes": ("int64", [None, 5]),
        "labels": ("string", [None, 5]),
    }
    images = {"images": ("uint8", [None, SIZE, SIZE, 3])}
    contract = {
        "serving_default": ({"image_bytes": ("string", [None])}, answers),
        "predict_images": (images, answers),
        "predict_images_float": ({"images": ("float32", [None, SIZE, SIZE, 3])}, answers),
        "predict_features": (images, {"features": ("float32", [None, 16])}),
    }
    assert set(loaded.signatures) == set(contract)
    for name, (inputs, outputs) in contract.items():
        signature = loaded.signatures[name]
        assert spec(signature.structured_input_signature[1]) == inputs
        assert spec(signature.structured_outputs) == outputs


@pytest.mark.parametrize("count", [1, 3, 4])
def test_image_bytes_get_the_scores_of_evaluation(loaded, model, config, images, count):
    encoded = list(images.values())[:count]
    answer = loaded.signatures["serving_default"](image_bytes=tf.constant(encoded))
    expected = expected_scores(model, config, encoded)
    assert expected.std(axis=0).max() > 1e-3 or count == 1  # The images differ to the model.
    np.testing.assert_allclose(answer["scores"], expected, atol=1e-6)
    best = (-expected).argsort(axis=-1)[:, :5]
    np.testing.assert_array_equal(answer["classes"], best)
    assert answer["labels"].numpy().tolist() == [[NAMES[i] for i in row] for row in best]
    np.testing.assert_allclose(answer["scores"].numpy().sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["wide.jpg", "small.png", "grey.jpeg", "alpha.png"])
def test_each_kind_of_image_alone(loaded, model, config, images, name):
    answer = loaded.signatures["serving_default"](image_bytes=tf.constant([images[name]]))
    expected = expected_scores(model, config, [images[name]])
    np.testing.assert_allclose(answer["scores"], expected, atol=1e-6)


def test_pixels_get_scores_and_features(loaded, model):
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    answer = loaded.signatures["predict_images"](images=tf.constant(pixels))
    expected = tf.nn.softmax(model.predict(pixels, verbose=0)).numpy()
    np.testing.assert_allclose(answer["scores"], expected, atol=1e-6)
    features = loaded.signatures["predict_features"](images=tf.constant(pixels))["features"]
    pooled = keras.Model(model.input, model.get_layer("head_pool").output)
    np.testing.assert_allclose(features, pooled.predict(pixels, verbose=0), rtol=1e-4, atol=1e-5)


def test_bytes_that_are_no_image_are_an_invalid_argument(loaded, images):
    for encoded in ([b"no image"], [b""], [images["wide.jpg"][:50]], [images["wide.jpg"], b"no"]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            loaded.signatures["serving_default"](image_bytes=tf.constant(encoded))


def test_needs_neither_keras_nor_our_code(exported, images, tmp_path):
    """In a process that can import neither."""
    (tmp_path / "image").write_bytes(images["wide.jpg"])
    code = f"""
import sys
for name in ("keras", "efficientnetv2", "export", "datasets", "hparams"):
    sys.modules[name] = None
import tensorflow as tf
serve = tf.saved_model.load({exported!r}).signatures["serving_default"]
data = open({str(tmp_path / "image")!r}, "rb").read()
print(serve(image_bytes=tf.constant([data]))["scores"].numpy().sum())
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) == pytest.approx(1, rel=1e-5)


def test_the_graph_has_no_xla_and_keeps_no_training_noise(exported):
    graph = saved_model_pb2.SavedModel.FromString(
        pathlib.Path(exported, "saved_model.pb").read_bytes()
    )
    functions = graph.meta_graphs[0].graph_def.library.function
    assert len(functions) > 3
    assert not any(f.attr["_XlaMustCompile"].b for f in functions)
    operations = {node.op for function in functions for node in function.node_def}
    assert not {op for op in operations if "Random" in op}


def test_warm_up_requests_replay_through_the_signatures(exported, loaded):
    path = os.path.join(exported, "assets.extra", "tf_serving_warmup_requests")
    replayed = []
    for record in tf.data.TFRecordDataset(path):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        name = request.model_spec.signature_name
        inputs = {key: tf.constant(tf.make_ndarray(t)) for key, t in request.inputs.items()}
        scores = loaded.signatures[name](**inputs)["scores"]
        replayed.append((name, scores.shape[0]))
    both = ("serving_default", "predict_images")
    assert sorted(replayed) == sorted((name, n) for n in (1, 8, 32) for name in both)


def test_class_names_lie_beside_the_graph(exported):
    labels = pathlib.Path(exported, "assets", "labels.txt")
    assert labels.read_bytes() == b"\n".join(NAMES) + b"\n"


def quick(monkeypatch):
    """Writes next to nothing, for tests of what goes on around it."""

    def save(module, path, signatures):
        pathlib.Path(path).mkdir(exist_ok=True)
        (pathlib.Path(path) / "saved_model.pb").touch()

    monkeypatch.setattr(efficientnetv2.export.saved_model.tf.saved_model, "save", save)
    monkeypatch.setattr(efficientnetv2.export.saved_model, "_read_back", lambda *args: (0.0, {}))


def test_versions_count_up(tmp_path, monkeypatch, model, config):
    quick(monkeypatch)
    folder = tmp_path / "new" / "folder"
    assert export_saved_model(model, str(folder), config) == str(folder / "1")
    assert export_saved_model(model, str(folder), config) == str(folder / "2")
    (folder / "10").mkdir()
    (folder / "notes").mkdir()
    assert export_saved_model(model, str(folder), config) == str(folder / "11")


@pytest.mark.parametrize("broken", ["_read_back", "write_warmup", "write_card"])
def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch, model, config, broken):
    quick(monkeypatch)

    def fail(*args, **kwargs):
        raise ExportMismatch("broken on purpose")

    monkeypatch.setattr(efficientnetv2.export.saved_model, broken, fail)
    with pytest.raises(ExportMismatch, match="on purpose"):
        export_saved_model(model, str(tmp_path), config)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_to_is_a_user_error(tmp_path, model, config):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write the export to .*file"):
        export_saved_model(model, str(tmp_path / "file"), config)


def test_an_export_is_verified_against_its_model(exported, model, config):
    assert 0 <= compare_with_model(exported, model, config) <= 1e-5


def test_other_weights_than_the_exported_ones_are_a_mismatch(exported, model, config):
    weight = model.get_layer("classifier").bias
    weight.assign(weight + np.eye(tiny_run.CLASSES)[0] * 0.01)
    try:
        with pytest.raises(ExportMismatch, match="differs from the model by"):
            compare_with_model(exported, model, config)
    finally:
        weight.assign(weight - np.eye(tiny_run.CLASSES)[0] * 0.01)


def test_other_preprocessing_is_a_mismatch(exported, model, config):
    """Bytes go another way than in the export; pixels of the right size would still agree."""
    other = hparams.with_overrides(config, "data.eval_crop=whole")
    with pytest.raises(ExportMismatch):
        compare_with_model(exported, model, other)


def test_a_score_that_is_nan_is_a_mismatch(exported, config):
    broken = tiny_run.make_model()
    broken.get_layer("classifier").bias.assign(np.full(tiny_run.CLASSES, np.nan))
    with pytest.raises(ExportMismatch, match="nan"):
        compare_with_model(exported, broken, config)


def test_a_missing_signature_is_a_mismatch(tmp_path, model, config):
    module = ServingModule(model, SIZE, config.data)
    signatures = {"predict_images": module.predict_images}
    tf.saved_model.save(module, str(tmp_path / "part"), signatures=signatures)
    with pytest.raises(
        ExportMismatch, match="lacks the signatures predict_features, predict_images_float, s"
    ):
        compare_with_model(str(tmp_path / "part"), model, config)


@pytest.mark.parametrize("loss_type", ["sigmoid", "custom"])
def test_scores_are_sigmoids_where_the_loss_was_one(tmp_path, model, config, images, loss_type):
    other = hparams.with_overrides(config, f"train.loss_type={loss_type}")
    path = export_saved_model(model, str(tmp_path), other)
    encoded = tf.constant([images["wide.jpg"], images["small.png"]])
    answer = tf.saved_model.load(path).signatures["serving_default"](image_bytes=encoded)
    logits = ServingModule(model, SIZE, config.data).classify(encoded)["logits"]
    np.testing.assert_allclose(answer["scores"], 1 / (1 + np.exp(-logits)), atol=1e-6)
    np.testing.assert_array_equal(answer["classes"], np.argsort(-logits, axis=-1)[:, :5])
    assert json.loads(pathlib.Path(path, "model_card.json").read_text())["activation"] == "sigmoid"
    with pytest.raises(ExportMismatch, match="differs from the model by"):
        compare_with_model(path, model, config)  # Of softmax.


def test_without_class_names_there_are_no_labels(model, config, images):
    module = ServingModule(model, SIZE, config.data)
    answer = module.serving_default(tf.constant([images["wide.jpg"]]))
    assert set(answer) == {"scores", "classes"}


def test_mixed_precision_and_few_classes_still_give_float32_scores(config, images):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = build_model(tiny_run.SPEC, num_classes=3)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    module = ServingModule(model, SIZE, config.data, ["a", "b", "c"])
    answer = module.serving_default(tf.constant([images["wide.jpg"]]))
    assert answer["scores"].dtype == tf.float32
    assert answer["classes"].shape == answer["labels"].shape == (1, 3)
    features = module.predict_features(np.zeros((1, SIZE, SIZE, 3), np.uint8))["features"]
    assert features.dtype == tf.float32
