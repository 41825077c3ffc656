"""The table of published weights."""

from collections import Counter

import pytest

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams.config import EVAL_CROPS, RESIZE_METHODS
from efficientnetv2.weights.pretrained import (
    PRETRAINED,
    ROOT_URL,
    TAGS,
    get_pretrained,
    list_pretrained,
)
from efficientnetv2.weights.stored import Preprocessing

V2 = [f"efficientnetv2-{size}" for size in ("b0", "b1", "b2", "b3", "s", "m", "l", "xl")]
V1 = [f"efficientnet-b{number}" for number in range(9)]
L2 = ["efficientnet-l2", "efficientnet-l2_475"]
V2_SIZES = dict(zip(V2, (224, 240, 260, 300, 384, 480, 480, 512)))
V1_SIZES = dict(zip(V1 + L2, (224, 240, 260, 300, 380, 456, 528, 600, 672, 800, 475)))


def test_the_table_has_exactly_the_published_weights():
    published = {
        "imagenet": {*V2, *V1} - {"efficientnetv2-xl"},
        "imagenet21k": {*V2},
        "imagenet21k-ft1k": {*V2},
        "jft": {*V1, *L2} - {"efficientnet-b8"},
    }
    assert {(name, tag) for tag, names in published.items() for name in names} == set(PRETRAINED)
    rows = list_pretrained()
    assert len(rows) == 42
    assert Counter(row.tag for row in rows) == dict(zip(TAGS, (16, 8, 8, 10)))
    assert len({row.url for row in rows}) == 42
    for row in rows:
        assert get_pretrained(row.model_name, row.tag) is row
        assert row.preprocessing.crop in EVAL_CROPS
        assert row.preprocessing.resize_method in RESIZE_METHODS


@pytest.mark.parametrize("row", list_pretrained(), ids=lambda row: f"{row.model_name}-{row.tag}")
def test_each_row_has_its_address_classes_and_size(row):
    name = row.model_name
    paths = {
        "imagenet": f"v2/{name}.tgz" if name in V2 else f"advprop/{name}.tar.gz",
        "imagenet21k": f"v2/{name}-21k.tgz",
        "imagenet21k-ft1k": f"v2/{name}-21k-ft1k.tgz",
        "jft": f"noisystudent/noisy_student_{name}.tar.gz",
    }
    assert row.url == f"{ROOT_URL}/{paths[row.tag]}"
    assert row.num_classes == (21_843 if row.tag == "imagenet21k" else 1000)
    size = (V2_SIZES | V1_SIZES)[name]
    assert row.preprocessing.image_size == (224 if row.tag == "imagenet21k" else size)


@pytest.mark.parametrize(
    "name, tag, expected",
    [
        ("efficientnetv2-s", "imagenet", (384, "v2", "bilinear", "centered")),
        ("efficientnetv2-l", "imagenet", (480, "v2", "bilinear", "centered")),
        ("efficientnetv2-b2", "imagenet", (260, "v1", "legacy_bicubic", "imagenet")),
        ("efficientnetv2-b2", "imagenet21k", (224, "v2", "bilinear", "centered")),
        ("efficientnetv2-b2", "imagenet21k-ft1k", (260, "whole", "bilinear", "inception")),
        ("efficientnetv2-xl", "imagenet21k", (224, "v2", "bilinear", "centered")),
        ("efficientnetv2-xl", "imagenet21k-ft1k", (512, "whole", "bilinear", "inception")),
        ("efficientnet-b4", "imagenet", (380, "v1", "legacy_bicubic", "inception")),
        ("efficientnet-b4", "jft", (380, "v1", "legacy_bicubic", "imagenet")),
        ("efficientnet-l2_475", "jft", (475, "v1", "legacy_bicubic", "imagenet")),
    ],
)
def test_preprocessing_travels_with_the_weights(name, tag, expected):
    assert get_pretrained(name, tag).preprocessing == Preprocessing(*expected)


@pytest.mark.parametrize("name", [name for name in V2 if "-b" in name])
def test_21k_weights_of_the_b_models_differ_from_their_1k_siblings(name):
    kinds = [get_pretrained(name, tag).preprocessing.normalization for tag in TAGS[:3]]
    assert kinds == ["imagenet", "centered", "inception"]


@pytest.mark.parametrize(
    "name, tag, message",
    [
        ("efficientnetv2-s", "imagenet-21k", "unknown weights 'imagenet-21k'; did you mean "),
        ("efficientnetv2-xl", "imagenet", "-xl has no 'imagenet' .* imagenet21k, imagenet21k-ft1k"),
        ("efficientnetv2-s", "jft", "has no 'jft' .* imagenet, imagenet21k, imagenet21k-ft1k$"),
        ("efficientnet-l2", "imagenet", "efficientnet-l2 has no 'imagenet' weights; it has jft$"),
        ("efficientnetv2-t", "imagenet", "model 'efficientnetv2-t'; did you mean 'efficientnetv2-"),
    ],
)
def test_weights_that_do_not_exist_are_a_user_error(name, tag, message):
    with pytest.raises(UserError, match=message) as error:
        get_pretrained(name, tag)
    assert "\n" not in str(error.value)
