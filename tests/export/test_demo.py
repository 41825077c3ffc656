"""The page of --mode=demo: what it answers to a photo, asked as the browser asks."""

import numpy as np
import pytest
import tensorflow as tf
from demo_server import NAMES, classify, served

from efficientnetv2.common.errors import UserError
from efficientnetv2.export import demo
from efficientnetv2.export.demo import Viewer, build_page
from efficientnetv2.export.serving import ServingModule
from efficientnetv2.report.evaluate import grad_cam, overlay


@pytest.fixture(scope="module")
def viewer(model, config):
    return Viewer(model, config, [f"class {i}" for i in range(12)])


@pytest.fixture(scope="module")
def photo(images, tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "wide.jpg"
    path.write_bytes(images["wide.jpg"])
    return path


def test_a_photo_gets_its_best_classes_and_what_speaks_for_the_first(viewer, photo, model, config):
    scores, picture, taken = viewer.look(str(photo))
    serving = ServingModule(model, 32, config.data)
    encoded = tf.constant([photo.read_bytes()])
    expected = serving.serving_default(encoded)
    best = expected["classes"][0].numpy()
    assert list(scores) == [f"class {i}" for i in best]
    np.testing.assert_allclose(list(scores.values()), expected["scores"].numpy()[0, best], 1e-5)
    pixels = serving.pixels(encoded)
    seen = np.clip(np.rint(pixels[0].numpy()), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(picture, overlay(seen, grad_cam(model, pixels, best[:1])[0]))
    assert taken.endswith(" ms for decoding and the network")


def test_without_names_classes_have_numbers(model, config):
    assert Viewer(model, config, ()).class_names[11] == "class 11"


def test_the_served_page_answers_uploads_and_refuses_what_is_no_image(
    model, config, photo, tmp_path
):
    expected, _, _ = Viewer(model, config, NAMES).look(str(photo))
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photo.read_bytes()[:80])
    with served(tmp_path, model, config) as url:
        for _ in range(2):
            kind, (answer, picture, taken) = classify(url, photo)
            assert kind == "complete" and answer["label"] == next(iter(expected))
            found = {row["label"]: row["confidence"] for row in answer["confidences"]}
            assert found == pytest.approx(expected, rel=1e-4)
            assert picture["path"] and taken.endswith("network")
            kind, told = classify(url, broken)
            assert kind == "error" and "image" in told["error"]


def test_gradio_is_an_extra(viewer, monkeypatch):
    monkeypatch.setattr(demo, "gradio", None)
    with pytest.raises(UserError, match=r"needs gradio; pip install -e .*\[demo\]"):
        build_page(viewer, "tiny")
