"""The rendered data set: pure, balanced, disjoint, and not given away by colour averages."""

import collections
import hashlib

import numpy as np
import pytest
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.sources import shapes
from efficientnetv2.datasets.sources.shapes import Shapes


@pytest.fixture(scope="module")
def images():
    """240 images of each split: {split: (images, labels)}."""
    rendered = {s: [shapes.render(s, i) for i in range(240)] for s in shapes.SPLIT_IDS}
    return {
        split: (np.stack([image for image, _ in pairs]), np.array([label for _, label in pairs]))
        for split, pairs in rendered.items()
    }


def test_images_are_uint8_of_64_pixels(images):
    for pixels, _ in images.values():
        assert pixels.dtype == np.uint8
        assert pixels.shape == (240, 64, 64, 3)


def test_twelve_classes_cross_colour_texture_and_shape():
    parts = {tuple(name.split("_")) for name in shapes.CLASS_NAMES}
    assert len(shapes.CLASS_NAMES) == len(parts) == 12
    assert [len(set(column)) for column in zip(*parts, strict=True)] == [2, 2, 3]


def test_render_is_a_pure_function_of_split_and_index(images):
    np.random.seed(7)
    again, label = shapes.render("test", 17)
    np.testing.assert_array_equal(again, images["test"][0][17])
    assert label == images["test"][1][17]


def test_render_is_unchanged():
    # If this fails, the images changed: raise Shapes.VERSION, then put the new figures here.
    pixels = np.stack([shapes.render("train", index)[0] for index in range(12)])
    assert str(Shapes.VERSION) == "1.0.0"
    assert pixels.mean() == pytest.approx(115.5586, abs=1e-3)
    assert pixels.std() == pytest.approx(49.0842, abs=1e-3)


def test_no_image_is_repeated_within_or_across_splits(images):
    digests = [
        hashlib.sha256(image.tobytes()).digest()
        for pixels, _ in images.values()
        for image in pixels
    ]
    assert len(set(digests)) == len(digests) == 3 * 240


def test_classes_are_balanced_in_every_split(images):
    for _, labels in images.values():
        assert set(collections.Counter(labels.tolist()).values()) == {240 // 12}
    assert all(size % 12 == 0 for size in shapes.SPLIT_SIZES.values())


def test_mean_colour_does_not_give_the_class_away(images):
    """Nearest class mean of the average colour: far below what a network must reach."""
    train_colours = images["train"][0].mean(axis=(1, 2))  # [N, 3]
    labels = images["train"][1]
    centres = np.stack([train_colours[labels == k].mean(axis=0) for k in range(12)])
    colours = images["test"][0].mean(axis=(1, 2))
    nearest = np.linalg.norm(colours[:, None] - centres[None], axis=-1).argmin(axis=1)
    assert (nearest == images["test"][1]).mean() < 0.3


def test_shapes_of_one_size_have_the_same_area():
    centre = np.array([32.0, 32.0])
    areas = [shapes._shape_mask(s, centre, 15.0, angle=0.4).mean() * 64**2 for s in shapes.SHAPES]
    np.testing.assert_allclose(areas, np.pi * 15.0**2, rtol=0.01)


def test_stripes_cover_their_share():
    rng = np.random.default_rng(0)
    shares = [shapes._stripes(rng, 8.0, shapes._SAMPLES).mean() for _ in range(20)]
    assert np.mean(shares) == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize(("split", "index", "word"), [("dev", 0, "dev"), ("test", -1, "-1")])
def test_render_names_a_bad_argument(split, index, word):
    with pytest.raises(UserError, match=word):
        shapes.render(split, index)


def test_command_line_writes_the_image_and_prints_its_class(tmp_path, capsys):
    path = tmp_path / "held_out.png"
    shapes.main([f"--out={path}", "--split=test", "--index=7"])
    image, label = shapes.render("test", 7)
    assert capsys.readouterr().out == shapes.CLASS_NAMES[label] + "\n"
    np.testing.assert_array_equal(tf.io.decode_png(path.read_bytes()), image)


def test_command_line_ends_with_status_2_on_a_bad_index(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        shapes.main([f"--out={tmp_path / 'x.png'}", "--index=-3"])
    assert stopped.value.code == 2
    assert "index must be 0 or more" in capsys.readouterr().err
