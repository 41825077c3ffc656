"""Dropout and stochastic depth, and where they take their noise from."""

import threading

import keras
import numpy as np
import pytest

from efficientnetv2.network.layers import HeadDropout, StochasticDepth, noise_from


class Recorder:
    """A source that notes what it is asked for and returns zeros."""

    def __init__(self):
        self.asked = []

    def drop(self, x, rate, name):
        self.asked.append((rate, name))
        return x * 0


def test_stochastic_depth_drops_whole_examples_and_rescales_the_rest():
    keras.utils.set_random_seed(0)
    x = np.ones((4000, 2, 3, 2), np.float32)
    y = np.asarray(StochasticDepth(0.25)(x, training=True))
    per_example = y.reshape(4000, -1)
    assert (per_example == per_example[:, :1]).all()
    assert set(np.unique(per_example)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (per_example[:, 0] == 0).mean() == pytest.approx(0.25, abs=0.03)
    assert y.mean() == pytest.approx(1, abs=0.04)


def test_head_dropout_drops_single_values():
    keras.utils.set_random_seed(0)
    y = np.asarray(HeadDropout(0.4)(np.ones((200, 50), np.float32), training=True))
    assert (y == 0).mean() == pytest.approx(0.4, abs=0.02)
    assert 0 < (y[0] == 0).sum() < 50
    assert y.max() == pytest.approx(1 / 0.6)


@pytest.mark.parametrize("layer", [StochasticDepth(0.5), HeadDropout(0.5)])
def test_inference_is_the_identity(layer):
    x = np.random.default_rng(0).normal(size=(8, 4, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(layer(x, training=False)), x)
    recorder = Recorder()
    with noise_from(recorder):
        np.testing.assert_array_equal(np.asarray(layer(x, training=False)), x)
    assert recorder.asked == []


@pytest.mark.parametrize("kind", [StochasticDepth, HeadDropout])
def test_a_source_replaces_the_noise_of_keras(kind):
    layer, recorder = kind(0.3, name="some_name"), Recorder()
    x = np.ones((4, 2, 2, 3), np.float32)
    with noise_from(recorder):
        assert not np.asarray(layer(x, training=True)).any()
    assert recorder.asked == [(0.3, "some_name")]
    assert np.asarray(layer(x, training=True)).shape == x.shape
    assert len(recorder.asked) == 1  # Outside, Keras' noise again.


def test_a_rate_of_zero_asks_no_source():
    recorder = Recorder()
    with noise_from(recorder):
        StochasticDepth(0.0)(np.ones((4, 2, 2, 3), np.float32), training=True)
    assert recorder.asked == []


def test_sources_nest_and_end_with_an_exception():
    outer, inner, layer = Recorder(), Recorder(), HeadDropout(0.5)
    x = np.ones((1, 2), np.float32)
    with noise_from(outer):
        with pytest.raises(KeyError), noise_from(inner):
            layer(x, training=True)
            raise KeyError
        layer(x, training=True)
    assert (len(outer.asked), len(inner.asked)) == (1, 1)
    layer(x, training=True)
    assert len(outer.asked) == 1


def test_a_source_belongs_to_its_thread():
    recorder, layer = Recorder(), HeadDropout(0.5)
    x = np.ones((1, 2), np.float32)
    with noise_from(recorder):
        other = threading.Thread(target=lambda: layer(x, training=True))
        other.start()
        other.join()
    assert recorder.asked == []
