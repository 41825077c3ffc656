"""The proof of an export: what it holds for right, and everything that it must find wrong."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from efficientnetv2.export import verify
from efficientnetv2.export.card import expected_signatures, file_digests, first_difference
from efficientnetv2.export.compare import EXPECTED_FILE


@pytest.fixture
def copy(exported, tmp_path):
    return pathlib.Path(shutil.copytree(exported, tmp_path / "shapes" / "1"))


def spoil(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def recount(copy):
    """Makes the card agree with the files as they are now."""
    spoil(copy / "model_card.json", lambda card: card.update(files=file_digests(str(copy))))


def failed(copy) -> verify.Check:
    *before, last = verify.prove(str(copy))
    assert all(check.passed for check in before)
    assert not last.passed
    assert "\n" not in last.result
    return last


def test_an_export_passes_all_checks_and_so_does_a_copy(exported, copy):
    for path in (exported, str(copy)):
        checks = list(verify.prove(path))
        assert [check.name for check in checks] == ["files", "signatures", "warm-up", "scores"]
        assert all(check.passed for check in checks)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("saved_model.pb", b"changed", "saved_model.pb has changed"),
        ("assets/labels.txt", None, "assets/labels.txt is missing"),
        ("assets.extra/more.txt", b"", "assets.extra/more.txt is additional"),
    ],
)
def test_a_file_that_is_not_the_exported_one_is_named(copy, name, content, fault):
    (copy / name).unlink(missing_ok=True)
    if content is not None:
        (copy / name).write_bytes(content)
    assert failed(copy) == ("files", False, fault)


def test_one_bit_is_enough(copy):
    content = bytearray((copy / "saved_model.pb").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "saved_model.pb").write_bytes(content)
    assert failed(copy) == ("files", False, "saved_model.pb has changed")


def test_without_a_card_nothing_is_proved(copy):
    (copy / "model_card.json").unlink()
    assert failed(copy).name == "files"
    assert "model_card.json" in failed(copy).result


def test_a_graph_that_cannot_be_loaded_is_a_failed_check(copy):
    (copy / "saved_model.pb").write_bytes(b"no graph")
    recount(copy)
    assert failed(copy).name == "signatures"


def test_signatures_are_held_to_the_contract(copy):
    spoil(copy / "model_card.json", lambda card: card.update(num_classes=11))
    text = "predict_images, output scores: float32 [None, 12], expected float32 [None, 11]"
    assert failed(copy).result.replace("serving_default", "predict_images") == text


def test_what_differs_between_signatures_is_told():
    expected = expected_signatures(32, 12, True, 16)
    assert first_difference(expected, expected) is None
    without = {name: s for name, s in expected.items() if name != "predict_images"}
    assert first_difference(without, expected) == "signature predict_images is missing"
    assert first_difference(expected, without) == "signature predict_images is additional"
    other = expected_signatures(32, 12, False, 16)
    assert first_difference(other, expected) == (
        "serving_default, output labels: none, expected string [None, 5]"
    )
    assert first_difference(expected_signatures(33, 12, True, 16), expected) == (
        "predict_images, input images: uint8 [None, 33, 33, 3], expected uint8 [None, 32, 32, 3]"
    )


def warmup(copy, keep):
    path = str(copy / "assets.extra" / "tf_serving_warmup_requests")
    records = [record.numpy() for record in tf.data.TFRecordDataset(path)]
    with tf.io.TFRecordWriter(path) as writer:
        for record in records[:keep]:
            writer.write(record)
    recount(copy)


def test_a_warm_up_request_that_is_missing_is_found(copy):
    warmup(copy, keep=-1)
    assert failed(copy).name == "warm-up"
    assert failed(copy).result.startswith("requests are serving_default 1, predict_images 1, ")


def test_a_damaged_warm_up_file_is_found(copy):
    path = copy / "assets.extra" / "tf_serving_warmup_requests"
    path.write_bytes(path.read_bytes()[:-7])
    recount(copy)
    assert failed(copy).name == "warm-up"


@pytest.mark.parametrize("signature", ["serving_default", "predict_images"])
@pytest.mark.parametrize("error", [3e-4, float("nan")])
def test_scores_of_another_network_are_found(copy, signature, error):
    def change(content):
        content[signature]["scores"][1][2] += error

    spoil(copy / EXPECTED_FILE, change)
    recount(copy)
    assert failed(copy).name == "scores"
    assert failed(copy).result.startswith("differ from those of the exported network by ")


def test_scores_that_are_not_stored_are_found(copy):
    os.remove(copy / EXPECTED_FILE)
    recount(copy)
    assert failed(copy).name == "scores"


def test_latencies_of_both_signatures(exported):
    measured = verify.latencies(exported)
    assert list(measured) == [
        f"{signature}, batch {batch}"
        for signature in ("serving_default", "predict_images")
        for batch in (1, 8)
    ]
    for row in measured.values():
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["calls"] >= 5


def test_the_image_for_a_command_line_is_short_and_one():
    image = verify.tiny_image()
    assert len(image) < 500
    pixels = tf.io.decode_jpeg(image).numpy()
    assert pixels.shape == (16, 16, 3)
    assert np.ptp(pixels) > 200
