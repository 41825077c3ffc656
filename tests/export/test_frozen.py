"""The frozen graph says what the network says, with fewer operations."""

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
import tiny_run
from stirred import stirred

from efficientnetv2 import build_model
from efficientnetv2.export.frozen import INPUT, as_function, freeze

BUILDS = {
    "centered": {"normalization": "centered"},
    "inception": {"normalization": "inception"},
    "imagenet": {"normalization": "imagenet"},
    "symmetric": {"normalization": "imagenet", "padding": "symmetric"},
    "group norm": {"normalization": "imagenet", "norm": "group"},
}


@pytest.mark.parametrize("name", BUILDS)
def test_it_agrees_with_the_network_and_normalises_by_one_sum(name):
    settings = {"num_classes": tiny_run.CLASSES, **BUILDS[name]}
    model = stirred(lambda: build_model(tiny_run.SPEC, **settings))
    graph = freeze(model, 32)
    images = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)
    _, logits, _ = as_function(graph)(tf.constant(images))
    expected = model(images, training=False).numpy()
    assert np.abs(logits.numpy() - expected).max() < 1e-4 * expected.std()
    ops = Counter(node.op for node in graph.node)
    assert not ops["FusedBatchNormV3"]
    assert {node.op for node in graph.node if INPUT in node.input} == {"AddV2"}
