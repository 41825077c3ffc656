"""Mixup and CutMix: the draws' distributions, and the mathematics of applying them."""

import numpy as np
import pytest
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.augment import mixup
from efficientnetv2.datasets.augment.mixup import Boxes

SEED = tf.constant([5, 9], tf.int64)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 6, 7, 3)).astype(np.uint8)
LABELS = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 1]]
MULTI_HOT = np.float32([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1]])
WEIGHTS = np.round(np.float32(256) * np.array([0.5, 0.75, 0.6, 1.0, 0.9], np.float32)) / 256


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0])
def test_weights_follow_the_folded_beta(alpha):
    weights = mixup.draw_mixup(20000, alpha, SEED).numpy()
    shares = np.random.default_rng(1).beta(alpha, alpha, 20000)
    expected = np.maximum(shares, 1.0 - shares)
    assert weights.dtype == np.float32 and weights.shape == (20000,)
    assert weights.min() >= 0.5 and weights.max() <= 1.0
    quantiles = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(
        np.quantile(weights, quantiles), np.quantile(expected, quantiles), atol=0.02
    )
    # Not folded: mean 1/2, variance 1 / (4 (2 alpha + 1)).
    np.testing.assert_allclose(
        ((weights - 0.5) ** 2).mean(), 0.25 / (2 * alpha + 1), rtol=0.03, atol=0
    )


@pytest.mark.parametrize("alpha", [0.01, 1e-4])
def test_tiny_alpha_hardly_mixes(alpha):
    weights = mixup.draw_mixup(20000, alpha, SEED).numpy()  # the gamma draws underflow
    assert weights.min() >= 0.5
    np.testing.assert_allclose(weights.mean(), 1.0, atol=1.5 * alpha)


def test_alpha_zero_is_off():
    np.testing.assert_array_equal(mixup.draw_mixup(4, 0.0, SEED), np.ones(4, np.float32))
    boxes = mixup.draw_cutmix(4, 0.0, 16, SEED)
    np.testing.assert_array_equal(boxes.start, boxes.end)
    np.testing.assert_array_equal(boxes.weights, np.ones(4, np.float32))
    for draw in (mixup.draw_mixup, lambda *a: mixup.draw_cutmix(*a[:2], 16, a[2])):
        with pytest.raises(UserError, match="-0.1"):
            draw(4, -0.1, SEED)


def test_draws_are_a_function_of_the_seed():
    for draw in (
        lambda seed: [mixup.draw_mixup(8, 0.2, seed)],
        lambda seed: list(mixup.draw_cutmix(8, 0.5, 64, seed)),
    ):
        first = draw(SEED)
        inside = next(tf.data.Dataset.from_tensors(SEED).map(draw).as_numpy_iterator())
        for one, same, within, other in zip(first, draw(SEED), inside, draw(SEED + 1)):
            np.testing.assert_array_equal(one, same)
            np.testing.assert_array_equal(one, within)
            assert np.any(one != other)
        assert len(set(first[-1].numpy().tolist())) > 3  # one draw per example; boxes are coarse


@pytest.mark.parametrize("labels", [LABELS, MULTI_HOT])
def test_blends_with_the_mirror_in_the_batch(labels):
    images, mixed = mixup.apply_mixup(tf.constant(IMAGES), tf.constant(labels), WEIGHTS)
    for i in range(5):
        own, partner, weight = IMAGES[i].astype(float), IMAGES[4 - i], float(WEIGHTS[i])
        exact = weight * own + (1.0 - weight) * partner
        assert np.abs(images[i].numpy() - exact).max() <= 0.5 + 1e-4  # rounded, not truncated
        expected = weight * labels[i] + (1 - weight) * labels[4 - i]
        np.testing.assert_allclose(mixed[i], expected, rtol=1e-6)
    assert images.dtype == tf.uint8 and mixed.dtype == tf.float32
    np.testing.assert_array_equal(images[2], IMAGES[2])  # the middle one meets itself
    np.testing.assert_array_equal(images[3], IMAGES[3])  # weight 1


def test_halfway_is_rounded_up():
    pair = np.zeros((2, 1, 1, 3), np.uint8)
    pair[:, 0, 0] = (10, 0, 255), (11, 1, 254)
    images, _ = mixup.apply_mixup(tf.constant(pair), tf.constant(LABELS[:2]), [0.5, 0.5])
    assert images.numpy().reshape(2, 3).tolist() == [[11, 1, 255]] * 2


def test_weights_are_multiples_of_a_256th_so_that_labels_say_what_pixels_are():
    weights = mixup.draw_mixup(500, 0.3, SEED).numpy() * 256
    np.testing.assert_array_equal(weights, np.round(weights))
    assert len(set(weights.tolist())) > 90


@pytest.mark.parametrize("alpha", [0.2, 1.0])
@pytest.mark.parametrize("size", [1, 33, 100])
def test_boxes_have_the_drawn_side_and_are_cut_at_the_border(alpha, size):
    boxes = mixup.draw_cutmix(8000, alpha, size, SEED)
    start, end, weights = (part.numpy() for part in boxes)
    assert start.dtype == end.dtype == np.int32 and weights.dtype == np.float32
    assert start.min() >= 0 and end.max() <= size and np.all(start <= end)
    np.testing.assert_allclose(weights, 1 - np.prod(end - start, axis=1) / size**2, atol=1e-6)
    if size == 1:
        return
    # Uncut boxes are square, cut ones not wider than the square that they are cut from.
    sides, uncut = end - start, np.all((start > 0) & (end < size), axis=1)
    np.testing.assert_array_equal(sides[uncut, 0], sides[uncut, 1])
    shares = np.random.default_rng(1).beta(alpha, alpha, 8000)
    side = (size * np.sqrt(1 - shares)).astype(int)
    center = np.random.default_rng(2).integers(0, size, (8000, 2))
    first = np.maximum(center - (side // 2)[:, None], 0)
    last = np.minimum(center - (side // 2)[:, None] + side[:, None], size)
    expected = 1 - np.prod(last - first, axis=1) / size**2
    quantiles = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(
        np.quantile(weights, quantiles), np.quantile(expected, quantiles), atol=0.04
    )
    places = (start + end)[np.all(sides > 0, axis=1)] / 2
    np.testing.assert_allclose(places.mean(axis=0), size / 2, atol=0.02 * size)
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.1


def test_the_side_is_the_square_root_of_the_rest_cut_off(monkeypatch):
    rests = np.array([0.0, 0.25, 0.5, 0.75, 0.9999, 1.0])
    monkeypatch.setattr(mixup, "_beta", lambda *_: tf.constant(1 - rests))
    sides = np.zeros(6, int)
    for seed in range(60):  # The whole square is seen where it is not cut.
        start, end, _ = mixup.draw_cutmix(6, 1.0, 50, tf.constant([seed, 0], tf.int64))
        sides = np.maximum(sides, (end - start).numpy().max(axis=1))
    assert sides.tolist() == [int(50 * rest**0.5) for rest in rests] == [0, 25, 35, 43, 49, 50]


@pytest.mark.parametrize("labels", [LABELS, MULTI_HOT])
def test_each_label_has_the_share_of_its_own_box(labels):
    images = np.stack([np.full((40, 40, 3), 10 * (i + 1), np.uint8) for i in range(5)])
    boxes = mixup.draw_cutmix(5, 1.0, 40, SEED + [0, 4])
    mixed, mixed_labels = mixup.apply_cutmix(tf.constant(images), tf.constant(labels), boxes)
    shares = []
    for i in range(5):
        taken = mixed[i].numpy() != images[i]
        top, left = boxes.start[i].numpy()
        bottom, right = boxes.end[i].numpy()
        expected = images[i].copy()
        expected[top:bottom, left:right] = images[4 - i, top:bottom, left:right]
        np.testing.assert_array_equal(mixed[i], expected)
        if i == 2:  # It is its own partner.
            np.testing.assert_allclose(mixed_labels[2], labels[2], rtol=1e-6)
            continue
        share = taken.mean()
        expected = (1 - share) * labels[i] + share * labels[4 - i]
        np.testing.assert_allclose(mixed_labels[i], expected, atol=1e-6)
        shares.append(share)
    assert len(set(shares)) == 4 and max(shares) > 0.1  # not the mean of the batch
    assert mixed.dtype == tf.uint8 and mixed_labels.dtype == tf.float32


def test_cutmix_in_place_of_a_known_box():
    images = RNG.integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    boxes = Boxes(np.int32([[0, 1], [2, 2]]), np.int32([[2, 4], [2, 4]]), np.float32([10 / 16, 1]))
    mixed, labels = mixup.apply_cutmix(tf.constant(images), tf.constant(LABELS[:2]), boxes)
    expected = images[0].copy()
    expected[:2, 1:] = images[1, :2, 1:]
    np.testing.assert_array_equal(mixed[0], expected)
    np.testing.assert_array_equal(mixed[1], images[1])  # an empty box
    np.testing.assert_array_equal(labels[:, :2], [[0.625, 0.375], [0, 1]])


def mixed(batch, mixup_alpha, cutmix_alpha, seed=SEED, labels=None):
    """What `mix` makes of a batch of noise, eagerly and in tf.data, which must agree."""
    images = np.random.default_rng(3).integers(0, 256, (batch, 24, 24, 3)).astype(np.uint8)
    labels = np.eye(batch, dtype=np.float32) if labels is None else labels

    def function(images, labels):
        return mixup.mix(images, labels, mixup_alpha, cutmix_alpha, seed)

    dataset = tf.data.Dataset.from_tensors((images, labels)).map(function)
    assert dataset.element_spec[0] == tf.TensorSpec(images.shape, tf.uint8)
    assert dataset.element_spec[1] == tf.TensorSpec(labels.shape, tf.float32)
    results = [part.numpy() for part in function(tf.constant(images), tf.constant(labels))]
    for inside, outside in zip(next(dataset.as_numpy_iterator()), results):
        np.testing.assert_array_equal(inside, outside)
    return images, *results


def is_cutmix(image, partner, result):
    """Whether each pixel is wholly of the image or of its partner."""
    return np.all((result == image) | (result == partner))


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
@pytest.mark.parametrize("alphas", [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_mixes_with_either_or_half_with_each(batch, alphas):
    half = {(1.0, 1.0): batch // 2, (1.0, 0.0): batch}.get(alphas, 0)
    changed = np.zeros(batch, bool)
    for seed in range(4):
        images, results, labels = mixed(batch, *alphas, seed=SEED + [0, seed])
        np.testing.assert_allclose(labels.sum(axis=1), 1.0, rtol=1e-6)
        for i in range(batch):
            # Each part has its own mirror.
            partner = half - 1 - i if i < half else half + batch - 1 - i
            share = labels[i, i]
            assert share + labels[i, partner] * (partner != i) == pytest.approx(1.0, abs=1e-6)
            changed[i] |= bool(np.any(results[i] != images[i]))
            if i < half:
                exact = share * images[i].astype(float) + (1 - share) * images[partner]
                assert np.abs(results[i] - exact).max() <= 0.5 + 1e-3
                assert share >= 0.5 - 1e-6
            else:
                assert is_cutmix(images[i], images[partner], results[i])
                if partner != i:
                    taken = np.any(results[i] != images[i], axis=-1).mean()
                    assert share == pytest.approx(1 - taken, abs=1e-5)
    sizes = (half, batch - half) if any(alphas) else (0, 0)
    middles = sum(size % 2 for size in sizes)  # They are their own partners.
    assert changed.sum() == sum(sizes) - middles


def test_the_halves_have_draws_of_their_own():
    _, _, labels = mixed(8, 1.0, 1.0)
    assert len(set(np.diag(labels).round(5).tolist())) > 5
    _, _, others = mixed(8, 1.0, 1.0, seed=SEED + 1)
    assert np.all(np.diag(labels) != np.diag(others))


def test_multi_hot_labels_are_mixed_as_they_are():
    images, results, labels = mixed(5, 1.0, 1.0, labels=MULTI_HOT)
    assert labels.min() >= 0 and labels.max() <= 1
    # Two mixed by Mixup, three by CutMix, the middle one of these with itself.
    np.testing.assert_allclose(labels[3], MULTI_HOT[3], atol=1e-6)
    share = 1 - np.any(results[2] != images[2], axis=-1).mean()
    expected = share * MULTI_HOT[2] + (1 - share) * MULTI_HOT[4]
    np.testing.assert_allclose(labels[2], expected, atol=1e-5)
