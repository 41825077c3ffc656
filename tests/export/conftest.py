"""One export, shared by the tests of this folder."""

import browser
import numpy as np
import pytest
import tensorflow as tf
import tiny_run
from stirred import stirred

from efficientnetv2 import build_model
from efficientnetv2.export.frozen import as_function, freeze
from efficientnetv2.export.saved_model import export_saved_model

collect_ignore = [] if browser.CHROMIUM else ["test_demo_browser.py"]
NAMES = tuple(f"class {index}" for index in range(tiny_run.CLASSES))
METRICS = {"step": 7, "loss": 0.5, "top1": 0.9}
WEIGHTS = {"source": "somewhere/ckpt-7", "step": 7, "averaged": True}


@pytest.fixture(scope="session")
def config():
    return tiny_run.make_config()


@pytest.fixture(scope="session")
def model():
    """Weights far from their initial values, so that scores differ clearly."""
    return stirred(tiny_run.make_model)


VARIANTS = {
    "as published": {},
    "symmetric padding": {"padding": "symmetric", "normalization": "imagenet"},
    "group norm": {"norm": "group"},
    "dilated": {"output_stride": 8},
}


@pytest.fixture(scope="session", params=VARIANTS)
def variant(request):
    """A frozen graph of 32 pixels for each way to build the network, and what it says."""
    settings = VARIANTS[request.param]
    model = stirred(lambda: build_model(tiny_run.SPEC, num_classes=tiny_run.CLASSES, **settings))
    graph_def = freeze(model, 32)
    return graph_def, scores_of(graph_def)


@pytest.fixture(scope="session")
def frozen(model):
    """The frozen graph of `model` at 32 pixels, and what it says."""
    graph_def = freeze(model, 32)
    return graph_def, scores_of(graph_def)


def scores_of(graph_def):
    function = as_function(graph_def)
    return lambda images: function(tf.constant(images, tf.float32))[0].numpy()


@pytest.fixture(scope="session")
def pixels():
    """20 images, smooth with noise, float32 [20, 32, 32, 3] in [0, 255], not rounded."""
    rng = np.random.default_rng(2)
    coarse = rng.uniform(-20, 275, (20, 4, 4, 3)).astype(np.float32)
    smooth = tf.image.resize(coarse, (32, 32)).numpy()
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.float32)


@pytest.fixture(scope="session")
def exported(tmp_path_factory, model, config):
    """The path of an export with class names."""
    folder = tmp_path_factory.mktemp("exports") / "shapes"
    return export_saved_model(
        model, str(folder), config, class_names=NAMES, weights=WEIGHTS, metrics=METRICS
    )


@pytest.fixture(scope="session")
def images():
    """Encoded images by their name, of several kinds and sizes."""
    rng = np.random.default_rng(1)

    def pixels(height, width, channels):
        coarse = rng.uniform(0, 255, (1, 5, 5, channels)).astype(np.float32)
        return tf.cast(tf.image.resize(coarse, (height, width))[0], tf.uint8)

    return {
        "wide.jpg": tf.io.encode_jpeg(pixels(40, 70, 3)).numpy(),
        "small.png": tf.io.encode_png(pixels(20, 21, 3)).numpy(),
        "grey.jpeg": tf.io.encode_jpeg(pixels(64, 48, 1)).numpy(),
        "alpha.png": tf.io.encode_png(pixels(33, 32, 4)).numpy(),
    }
