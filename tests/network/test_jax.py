"""The network on Keras 3's JAX backend; collected only where jax is installed."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import efficientnetv2

ROOT = pathlib.Path(__file__).parents[2]
ON_JAX = """
import sys
import keras, numpy as np
import efficientnetv2
from efficientnetv2.network.layers import HeadDropout, StochasticDepth
assert keras.backend.backend() == "jax"
folder = sys.argv[1]
model = efficientnetv2.build_model("efficientnetv2-b0", num_classes=100)
model.load_weights(f"{folder}/model.weights.h5")
np.save(f"{folder}/jax.npy", np.asarray(model(np.load(f"{folder}/images.npy"), training=False)))
x = np.ones((2000, 1, 1, 2), np.float32)
for layer in (StochasticDepth(0.3), HeadDropout(0.3)):
    dropped = np.asarray(layer(x, training=True)) == 0
    assert abs(dropped.mean() - 0.3) < 0.05, dropped.mean()
    assert (dropped[..., 0] == dropped[..., 1]).all() == isinstance(layer, StochasticDepth)
"""


@pytest.mark.jax
def test_the_same_weights_give_the_same_logits_on_jax(tmp_path):
    rng = np.random.default_rng(0)
    model = efficientnetv2.build_model("efficientnetv2-b0", num_classes=100)
    for weight in model.weights:  # Initial values would leave BatchNorm's weights untested.
        if not weight.path.endswith("kernel"):
            weight.assign(weight + 0.1 * rng.random(tuple(weight.shape)))
    images = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    model.save_weights(tmp_path / "model.weights.h5")
    np.save(tmp_path / "images.npy", images)
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, "-c", ON_JAX, str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    expected = model(images, training=False).numpy()
    difference = np.abs(np.load(tmp_path / "jax.npy") - expected).max()
    print(f"greatest difference: {difference / expected.std():.1e} standard deviations")
    assert difference <= 1e-4 * expected.std()
