"""The model card: what was exported, from where, and that it is still all there."""

import datetime
import hashlib
import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_run

from efficientnetv2 import hparams
from efficientnetv2.common.errors import UserError
from efficientnetv2.export.card import deviations, file_digests, read_card, weights_sha256
from efficientnetv2.network.compat import tf_variable, var_path


@pytest.fixture(scope="module")
def card(exported):
    return json.loads(pathlib.Path(exported, "model_card.json").read_text())


def test_what_was_exported(card):
    assert card["model"] == "tiny"
    assert card["num_classes"] == tiny_run.CLASSES
    assert card["activation"] == "softmax"
    assert card["preprocessing"] == {
        "image_size": 32,
        "crop": "v1",
        "resize_method": "legacy_bicubic",
        "normalization": "imagenet",
        "where": "all of it in the graph",
    }
    assert card["max_pixels"] == 100_000_000
    assert card["max_score_difference_to_the_model"] <= 1e-5
    assert card["versions"] == {"tensorflow": tf.__version__, "keras": keras.__version__}
    assert card["config"]["eval"]["isize"] == 32
    assert card["metrics"] == {"step": 7, "loss": 0.5, "top1": 0.9}
    spec = {"dtype": "float32", "shape": [None, tiny_run.CLASSES]}
    assert card["signatures"]["serving_default"]["outputs"]["scores"] == spec
    made = datetime.datetime.fromisoformat(card["created"])
    age = datetime.datetime.now(datetime.UTC) - made
    assert datetime.timedelta(seconds=-1) < age < datetime.timedelta(hours=1)


def test_where_the_weights_are_from_and_what_they_are(card, model):
    assert card["weights"] == {
        "source": "somewhere/ckpt-7",
        "step": 7,
        "averaged": True,
        "sha256": weights_sha256(model),
    }


def test_the_digest_of_weights_is_over_names_and_values(model):
    """Computed here from what the docstring says, so that it stays what it is."""
    digest = hashlib.sha256()
    for path, weight in sorted({var_path(w): w for w in model.weights}.items()):
        value = tf_variable(weight).numpy()
        digest.update(f"{path} float32 {value.shape}\n".encode() + value.tobytes())
    before = weights_sha256(model)
    assert before == digest.hexdigest()
    bias = model.get_layer("classifier").bias
    bias.assign(bias + np.eye(tiny_run.CLASSES)[3] * 1e-3)
    try:
        assert weights_sha256(model) != before
    finally:
        bias.assign(bias - np.eye(tiny_run.CLASSES)[3] * 1e-3)


def test_every_other_file_has_a_checksum(card, exported):
    folder = pathlib.Path(exported)
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    del files["model_card.json"]
    assert card["files"] == {
        name: {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for name, path in files.items()
    }
    assert {"saved_model.pb", "assets.extra/expected_scores.json"} <= set(files)
    assert file_digests(exported) == card["files"]


def test_deviations_are_told_where_settings_differ(card):
    assert any("folded into the convolutions" in text for text in card["deviations"])
    assert "eval.isize=32, by default 224" in card["deviations"]
    config = hparams.get_config("efficientnetv2-s", "imagenet")
    alone = deviations(config)
    assert not any("by default" in text for text in alone)
    changed = hparams.with_overrides(
        config, "data.eval_crop=whole,model.act_fn=relu,train.epochs=3,model.dropout_rate=0.4"
    )
    found = deviations(changed, ["padding as PyTorch's"])
    assert [text for text in found if text not in alone] == [
        "padding as PyTorch's",
        "model.act_fn=relu, by default silu",
        "data.eval_crop=whole, by default v2",
    ]
    b3 = hparams.get_config("efficientnet-b3", "imagenet")
    assert any(text.startswith("24 channels in the first stage") for text in deviations(b3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot read .*model_card.json: .*No such file.*; export again"),
        ("{", "cannot read .*model_card.json: .*; export again"),
        ("[]", "model_card.json holds no card but list; export again"),
        ('{"num_classes": 3}', "model_card.json lacks activation, files, preprocessing, sign"),
    ],
)
def test_a_card_that_is_none_is_a_user_error(tmp_path, content, message):
    if content is not None:
        (tmp_path / "model_card.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_card(str(tmp_path))
