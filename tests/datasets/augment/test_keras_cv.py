"""Layers of keras-cv by name: what is read and refused, and that a seed decides all they draw."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.augment.keras_cv import (
    LAYERS,
    KeyedDraws,
    draw_from,
    import_keras_cv,
    make_extra_augment,
    parse_extra_augment,
)

PLAIN = {"AutoContrast", "Equalization", "Grayscale", "Posterization"}  # Draw nothing.
SEED = (3, 50)


def photos(count=4, size=40):
    rough = np.random.default_rng(0).integers(0, 256, (count, 5, 5, 3)).astype(np.float32)
    return tf.cast(tf.image.resize(rough, [size, size], "bicubic", antialias=True), tf.uint8)


def seed_of(*numbers):
    return tf.constant(numbers, tf.int64)


def in_pipeline(function, images, seeds, threads):
    """Batches augmented in a parallel map, one for each seed."""
    dataset = tf.data.Dataset.from_tensor_slices(tf.constant(seeds, tf.int64))
    batches = dataset.map(lambda seed: function(images, seed), num_parallel_calls=threads)
    return list(batches.as_numpy_iterator())


def test_names_and_arguments_are_read_in_order():
    text = " RandomHue(factor=0.3)+GridMask + RandomCutout(height_factor=(.1, .2), width_factor=1)"
    assert parse_extra_augment(text) == (
        ("RandomHue", {"factor": 0.3}),
        ("GridMask", {}),
        ("RandomCutout", {"height_factor": (0.1, 0.2), "width_factor": 1}),
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it cannot be read"),
        ("RandomHue GridMask", "it cannot be read"),
        ("RandomHue(0.3)", "RandomHue(0.3) has an argument without a name"),
        ("RandomHue(**{'factor': 1})", "has an argument without a name"),
        ("RandomHue(factor=open('x'))", "factor=open('x') is no literal"),
        ("RandomHue*GridMask", "'RandomHue * GridMask' is no layer"),
        ("keras.layers.X()", "'keras.layers.X()' is no layer"),
        ("RandomHeu", "unknown layer 'RandomHeu'; did you mean 'RandomHue'?"),
        ("MixUp", "MixUp cannot be used: use data.mixup_alpha"),
        ("Resizing(height=3,width=3)", "it changes the image's size"),
        ("RandomHue(seed=3)", "drop seed of RandomHue: train.seed decides all draws"),
        ("RandomHue(value_range=(0,1))", "drop value_range of RandomHue: pixels are in [0, 255]"),
    ],
)
def test_other_text_is_refused_without_being_run(text, reason):
    with pytest.raises(UserError) as refused:
        parse_extra_augment(text)
    assert reason in str(refused.value)
    assert "data.extra_augment" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("RandomHue(factr=0.3)", "RandomHue has no 'factr'; did you mean 'factor'?"),
        ("RandomHue(factor=3)", "RandomHue(factor=3) cannot be used: `factor` should be inside"),
        ("Grayscale(output_channels=1)", "it changes the image's shape"),
        ("ChannelShuffle(groups=2)", "cannot be used: The number of input channels should be"),
        ("Equalization(bins=0)", "cannot be used: ValueError: Requires nbins > 0: 0"),
        ("RandomGaussianBlur(kernel_size=0)", "cannot be used: filter must not have zero elements"),
        (
            "RandomCutout(fill_mode='gaussian_noise')",
            "it draws random numbers that train.seed does not decide",
        ),
    ],
)
def test_arguments_that_a_layer_cannot_have_are_refused_before_the_run(text, reason):
    with pytest.raises(UserError) as refused:
        make_extra_augment(text)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():  # Can still be entered.
        pass


def check_layer(text):
    images, function = photos(), make_extra_augment(text)
    seeds = [(3, 50 + 10 * number) for number in range(5)]
    batches = in_pipeline(function, images, seeds, threads=4)
    assert {(batch.dtype, batch.shape) for batch in batches} == {(np.dtype(np.uint8), images.shape)}
    assert any((batch != images.numpy()).any() for batch in batches)
    backwards = in_pipeline(function, images, seeds[::-1], threads=1)
    np.testing.assert_array_equal(batches, backwards[::-1])
    np.testing.assert_array_equal(batches[0], function(images, seed_of(*seeds[0])))
    # Image i is a function of its pixels and of seed + (0, i), however a batch is divided.
    rest = in_pipeline(function, images[1:], [(3, 51)], threads=1)[0]
    np.testing.assert_array_equal(batches[0][1:], rest)
    if text not in PLAIN:
        assert len({batch.tobytes() for batch in batches}) > 1
        same = tf.tile(images[:1], [6, 1, 1, 1])
        drawn = in_pipeline(function, same, [SEED], threads=1)[0]
        assert len({image.tobytes() for image in drawn}) > 1


@pytest.mark.parametrize("text", ["RandomHue(factor=0.4)+GridMask", "AugMix", "Equalization"])
def test_a_seed_decides_the_pixels(text):
    check_layer(text)


@pytest.mark.slow
@pytest.mark.parametrize("text", [*LAYERS, "GridMask(fill_mode='gaussian_noise')"])
def test_a_seed_decides_the_pixels_of_each_layer(text):
    check_layer(text)


@pytest.mark.slow
def test_another_process_draws_the_same():
    text = "RandomHue+RandomTranslation+AugMix"
    program = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}\n"
        "import test_keras_cv as t\n"
        f"print(t.checksum({text!r}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.split()[-1] == checksum(text)


def checksum(text):
    pixels = make_extra_augment(text)(photos(), seed_of(*SEED)).numpy()
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def test_layers_are_applied_in_order():
    images = photos()
    gray_last = make_extra_augment("RandomHue+Grayscale")(images, seed_of(*SEED)).numpy()
    hue_last = make_extra_augment("Grayscale+RandomHue")(images, seed_of(*SEED)).numpy()
    np.testing.assert_array_equal(gray_last[..., 0], gray_last[..., 2])
    assert (gray_last != hue_last).any()
    each = [make_extra_augment("Grayscale")(images, seed_of(*SEED)), hue_last]
    np.testing.assert_allclose(each[0], each[1], atol=1)  # The hue of grey is none.


def test_a_layer_keeps_float32_pixels_of_jpeg_in_their_range():
    """It takes pixels in [0, 1]: in [0, 255] all would be white."""
    images = photos()
    result = make_extra_augment("RandomJpegQuality(factor=(95,100))")(images, seed_of(*SEED))
    error = np.abs(result.numpy().astype(int) - images.numpy().astype(int))
    assert error.mean() < 8


def test_each_round_of_the_loops_of_aug_mix_draws_anew():
    keras_cv, draws = import_keras_cv(), KeyedDraws()
    layer = keras_cv.layers.AugMix((0, 255), num_chains=1, chain_depth=6, dtype="float32")
    draw_from(layer, draws)
    layer._apply_op = lambda image, op: image * 8 + tf.cast(op, tf.float32)  # Notes which.
    layer._sample_from_beta = lambda *alphas: tf.constant(0.0)  # Nothing of the original.

    @tf.function(autograph=False)
    def rounds(seed):
        with draws.seeded(seed):
            return layer(tf.zeros([1, 1, 3]))[0, 0, 0]

    drawn = [int(rounds(seed_of(0, number))) for number in range(40)]
    written = [np.base_repr(number, 8).zfill(6) for number in drawn]
    assert sum(len(set(rounds)) > 1 for rounds in written) > 35
    assert {op for rounds in written for op in rounds} == set("01234567")


def test_draws_have_the_distributions_asked_for():
    draws = KeyedDraws()

    @tf.function(autograph=False)
    def drawn(seed):
        with draws.seeded(seed):
            whole = draws.uniform((20000,), 2, 6, tf.int32)
            normal = draws.normal((20000,), 3.0, 2.0)
            return whole, normal, draws.normal((20000,)), draws.gamma(tf.fill([20000], 4.0))

    whole, normal, other, gamma = [values.numpy() for values in drawn(seed_of(1, 2))]
    assert set(whole) == {2, 3, 4, 5}
    np.testing.assert_allclose([normal.mean(), normal.std()], [3, 2], rtol=0.03)
    np.testing.assert_allclose([gamma.mean(), gamma.var()], [4, 4], rtol=0.05)
    assert abs(np.corrcoef(normal, other)[0, 1]) < 0.03  # Each draw is one of its own.
