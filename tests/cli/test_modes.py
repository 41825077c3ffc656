"""The modes, in this process: weights that are no run's, JSON architectures, what a run leaves."""

import dataclasses
import json
import os
import pathlib
import shutil
import types

import golden
import numpy as np
import published
import pytest
import tensorflow as tf
from weight_server import WeightServer, make_archive, plain

from efficientnetv2 import build_model, hparams, load_weights, save_spec
from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.labels import read_labels
from efficientnetv2.datasets.preprocess import preprocess_eval
from efficientnetv2.training import run
from efficientnetv2.weights.download import CACHE_VARIABLE, URL_VARIABLE

CLASSES = ("cat", "dog", "hen")
SPEC = dataclasses.replace(published.SPEC, name="small", normalization="inception")
SMALL = "eval.isize=40,eval.batch_size=4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An architecture, official weights of it, labels, and photos of three classes."""
    folder = tmp_path_factory.mktemp("modes")
    save_spec(SPEC, str(folder / "small.json"))
    arrays = published.official_arrays(SPEC, len(CLASSES))
    published.save_official(arrays, folder / "model")
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (folder / "photos" / name).mkdir(parents=True)
        for index in range(5):
            pixels = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((10, 10, 1)))
            png = tf.io.encode_png(pixels.astype(np.uint8)).numpy()
            (folder / "photos" / name / f"{index}.png").write_bytes(png)
    return folder


@pytest.fixture(scope="module")
def weights(folder):
    """The flags that name the small network and its weights."""
    return (
        f"--model_name={folder / 'small.json'}",
        f"--weights={folder / 'model'}",
        f"--hparam_str={SMALL}",
    )


def logits_of(model, path, size, crop, resize_method):
    image = preprocess_eval(
        tf.constant(pathlib.Path(path).read_bytes()),
        size,
        crop=crop,
        resize_method=resize_method,
        exact=True,
    )
    return np.asarray(model(image[tf.newaxis], training=False))[0]


def check_top(top, logits, names, count, tolerance=1e-4):
    """The best classes, with the scores and logits of the model."""
    order = np.argsort(-logits)[:count]
    scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert [one["class"] for one in top] == order.tolist()
    assert [one["label"] for one in top] == [names[index] for index in order]
    assert [one["score"] for one in top] == pytest.approx(scores[order], abs=1e-5)
    allowed = tolerance * float(logits.std()) + 1e-5  # They are printed with five decimals.
    assert [one["logit"] for one in top] == pytest.approx(logits[order].tolist(), abs=allowed)


def test_infer_by_a_path_with_labels(folder, weights, answer):
    image = str(folder / "photos" / "cat" / "0.png")
    labels = f"--labels={folder / 'labels.txt'}"
    result, lines = answer("--mode=infer", *weights, labels, f"--image_path={image}")
    model = build_model(str(folder / "small.json"), num_classes=3, weights=str(folder / "model"))
    logits = logits_of(model, image, 40, "v2", "bilinear")
    [prediction] = result["predictions"]
    assert prediction["image"] == image
    check_top(prediction["top"], logits, CLASSES, 3)
    assert lines[0] == f"official, by name weights from {folder / 'model'}"
    assert lines[1] == "  they imply data.num_classes=3"
    result, _ = answer("--mode=infer", *weights, f"--image_path={image}")
    check_top(result["predictions"][0]["top"], logits, ("0", "1", "2"), 3)


def test_infer_by_a_name_uses_the_settings_that_travel(folder, answer, tmp_path, monkeypatch):
    figures = golden.load_golden("efficientnetv2-b0")
    published.save_official(golden.golden_arrays(figures), tmp_path / "model")
    files = [plain(f"b0/{path.name}", path.read_bytes()) for path in tmp_path.glob("model.*")]
    image = str(folder / "photos" / "dog" / "1.png")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    with WeightServer(make_archive(members=files, mode="w:")) as server:
        monkeypatch.setenv(URL_VARIABLE, server.url)
        flags = ("--weights=imagenet21k-ft1k", f"--image_path={image}")
        result, lines = answer("--mode=infer", "--model_name=efficientnetv2-b0", *flags)
    model = build_model("efficientnetv2-b0", normalization="inception")
    load_weights(model, str(tmp_path / "model"))
    logits = logits_of(model, image, 224, "whole", "bilinear")
    # These weights amplify rounding: traced and not, B0 differs by 5e-4.
    check_top(result["predictions"][0]["top"], logits, read_labels("imagenet"), 5, 2e-3)
    other = logits_of(model, image, 224, "v1", "legacy_bicubic")  # As the model alone would have.
    assert np.abs(other - logits).max() > 2e-2 * logits.std()
    assert lines[1] == (
        "  they imply data.num_classes=1000, eval.isize=224, data.eval_crop=whole, "
        "data.resize_method=bilinear, model.normalization=inception"
    )


def check_sigmoids(top):
    assert len(top) > 1
    for one in top:
        assert one["score"] == pytest.approx(1 / (1 + np.exp(-one["logit"])), abs=1e-5)


def test_imagenet21k_was_released_with_sigmoids(folder, answer, tmp_path, monkeypatch):
    arrays = golden.golden_arrays(golden.load_golden("efficientnetv2-b0"))
    published.save_official(arrays, tmp_path / "model")
    files = [plain(f"b0/{path.name}", path.read_bytes()) for path in tmp_path.glob("model.*")]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    image = f"--image_path={folder / 'photos' / 'dog' / '1.png'}"
    with WeightServer(make_archive(members=files, mode="w:")) as server:
        monkeypatch.setenv(URL_VARIABLE, server.url)
        flags = ("--model_name=efficientnetv2-b0", "--weights=imagenet21k", image)
        result, lines = answer("--mode=infer", *flags)
    check_sigmoids(result["predictions"][0]["top"])
    assert lines[1].endswith(", model.normalization=centered, train.loss_type=sigmoid")


def test_export_says_what_the_weights_expect(folder, weights, answer, tmp_path):
    labels = f"--labels={folder / 'labels.txt'}"
    flags = list(weights)
    flags[-1] += ",model.normalization=imagenet,data.eval_crop=whole"
    result, _ = answer("--mode=export", *flags, labels, f"--export_dir={tmp_path}")
    card = json.loads((pathlib.Path(result["export"]) / "model_card.json").read_text())
    assert card["preprocessing"] == {
        "image_size": 40,
        "crop": "whole",
        "resize_method": "bilinear",
        "normalization": "imagenet",
        "where": "all of it in the graph",
    }
    assert card["weights"]["source"] == str(folder / "model")
    assert card["weights"]["format"] == "official, by name"
    assert (card["model"], card["num_classes"]) == ("small", 3)
    assert card["metrics"] is None
    assert "model.normalization=imagenet, by default as the model has it" in card["deviations"]
    image = f"--image_path={folder / 'photos' / 'hen' / '2.png'}"
    served, _ = answer("--mode=infer", f"--export_dir={tmp_path}", image)
    direct, _ = answer("--mode=infer", *flags, labels, image)
    for mine, theirs in zip(served["predictions"][0]["top"], direct["predictions"][0]["top"]):
        assert (mine["class"], mine["label"]) == (theirs["class"], theirs["label"])
        assert mine["score"] == pytest.approx(theirs["score"], abs=1e-5)


def test_eval_by_weights(folder, weights, answer, refused, tmp_path):
    data = ("--dataset_cfg=folder", f"--data_dir={folder / 'photos'}")
    result, _ = answer("--mode=eval", *weights, *data)
    labelled, _ = answer("--mode=eval", *weights, *data, f"--labels={folder / 'labels.txt'}")
    assert result == labelled
    assert result["examples"] == 3
    assert result["step"] is None
    (tmp_path / "other.txt").write_text("cat\nhen\ndog\n")
    line = refused("--mode=eval", *weights, *data, f"--labels={tmp_path / 'other.txt'}")
    assert line.startswith(f"the classes of the data are not those of {tmp_path / 'other.txt'}; ")
    two = tmp_path / "two"
    shutil.copytree(folder / "photos", two, ignore=shutil.ignore_patterns("hen"))
    line = refused("--mode=eval", *weights, "--dataset_cfg=folder", f"--data_dir={two}")
    assert line.startswith("the data has 2 classes, the weights have 3; give the data that was")


def test_what_cannot_be_asked_is_one_line(folder, weights, refused, tmp_path):
    image = f"--image_path={folder / 'photos'}"
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    line = refused("--mode=infer", *weights, image, f"--labels={tmp_path / 'two.txt'}")
    assert line == f"{tmp_path / 'two.txt'} names 2 classes, the weights have 3"
    line = refused("--mode=infer", *weights, image, "--labels=/nowhere/a.txt")
    assert line == "cannot read class names from /nowhere/a.txt: No such file or directory"
    line = refused("--mode=infer", *weights, image, f"--export_dir={tmp_path}")
    assert line == "--export_dir and --weights both name a network; drop one"
    line = refused("--mode=infer", *weights[1:], image)
    assert line == "--model_name is needed with --weights, to know the network"
    line = refused("--mode=infer", "--model_name=efficientnetv2-b1", *weights[1:], image)
    assert "model has weights" in line or "lacks weights of the model" in line
    line = refused("--mode=infer", "--model_name=keras/ResNet50", *weights[1:], image)
    assert line == "keras/ResNet50 takes its weights from a run: give --model_dir"


def train(folder, name, run_dir, settings):
    return (
        "--mode=train",
        f"--model_name={name}",
        "--dataset_cfg=folder",
        f"--data_dir={folder / 'photos'}",
        f"--model_dir={run_dir}",
        "--hparam_str=train.batch_size=4,train.epochs=1,train.stages=1,train.isize=32,"
        f"data.ibase=32,eval.isize=32,{settings}",
    )


def test_a_json_architecture_trains_and_then_needs_its_file_no_more(folder, answer, tmp_path):
    path, run_dir = tmp_path / "net.json", tmp_path / "run"
    save_spec(dataclasses.replace(SPEC, name="net", activation="relu"), str(path))
    result, _ = answer(*train(folder, path, run_dir, "data.augname=none"))
    assert result["step"] == 3
    path.unlink()
    image = folder / "photos" / "cat" / "0.png"
    result, _ = answer("--mode=infer", f"--model_dir={run_dir}", f"--image_path={image}")
    model = build_model(str(run_dir / "architecture.json"), num_classes=3)
    assert model.get_layer("blocks_0").get_config()["activation"] == "relu"
    load_weights(model, str(run_dir))
    logits = logits_of(model, image, 32, "v2", "bilinear")
    check_top(result["predictions"][0]["top"], logits, CLASSES, 3)


def test_settings_that_no_network_has_leave_no_run_behind(folder, refused, tmp_path):
    """Else the mended command would be refused, as another run's."""
    name = "keras/MobileNetV2"
    line = refused(*train(folder, name, tmp_path, "model.padding=symmetric,data.augname=none"))
    assert line == "keras/MobileNetV2 has no model.padding; leave them out"
    line = refused(*train(folder, "keras/ResNet51", tmp_path, "data.augname=none"))
    assert "has no architecture 'keras/ResNet51'; did you mean 'keras/ResNet" in line
    assert os.listdir(tmp_path) == []


def test_a_run_with_sigmoids_and_class_weights(folder, answer, tmp_path, monkeypatch):
    """All that asks the run afterwards knows what its scores are."""
    made, photos, run_dir = [], tmp_path / "data", tmp_path / "run"
    shutil.copytree(folder / "photos", photos / "photos" / "train")
    shutil.copytree(folder / "photos", photos / "photos" / "val")
    for index in range(3):
        (photos / "photos" / "train" / "hen" / f"{index}.png").unlink()

    class Spy(run.Trainer):
        def __init__(self, *args, **kwargs):
            made.append(kwargs["class_weights"])
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(run, "Trainer", Spy)
    settings = "data.augname=none,train.loss_type=sigmoid,data.class_balance=loss"
    flags = train(photos, folder / "small.json", run_dir, settings)
    for _ in range(2):  # Resumed, it has the same.
        result, _ = answer(*flags)
    assert result["step"] == 3
    assert made == [pytest.approx((12 / 15, 12 / 15, 12 / 6))] * 2
    model_dir = f"--model_dir={run_dir}"
    image = f"--image_path={folder / 'photos' / 'cat' / '0.png'}"
    direct, _ = answer("--mode=infer", model_dir, image)
    check_sigmoids(direct["predictions"][0]["top"])
    exported, _ = answer("--mode=export", model_dir, f"--export_dir={tmp_path / 'export'}")
    card = json.loads((pathlib.Path(exported["export"]) / "model_card.json").read_text())
    assert card["activation"] == "sigmoid"
    served, _ = answer("--mode=infer", f"--export_dir={tmp_path / 'export'}", image)
    for mine, theirs in zip(served["predictions"][0]["top"], direct["predictions"][0]["top"]):
        assert mine["score"] == pytest.approx(theirs["score"], abs=1e-5)
    scores, _ = answer("--mode=eval", model_dir)
    assert 0 < scores["loss"] < 3  # A mean over the classes.


@pytest.mark.parametrize(
    "counts, message",
    [
        (None, "which data of data.ds_name=shapes does not state; folder and csv do, and TFRec"),
        ((4, 0), "class 'hen' has no training example"),
    ],
)
def test_class_weights_need_examples_of_each_class(counts, message):
    source = types.SimpleNamespace(class_counts=counts, class_names=("cat", "hen"))
    config = hparams.get_config(None, "shapes", "data.class_balance=loss")
    with pytest.raises(UserError, match=message):
        run._class_weights(config, source)
    assert run._class_weights(hparams.get_config(None, "shapes"), source) is None
