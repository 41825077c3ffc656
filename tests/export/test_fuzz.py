"""Damaged images, many: each is answered or refused, and nothing worse happens."""

import json
import subprocess
import sys

import fuzzed_images
import pytest

from efficientnetv2 import hparams
from efficientnetv2.export.saved_model import export_saved_model

COUNT, SEED = 2000, 0


@pytest.fixture(scope="module")
def small(tmp_path_factory, model, config):
    """An export that refuses images of more than a million pixels."""
    config = hparams.with_overrides(config, "data.max_pixels=1000000")
    return export_saved_model(model, str(tmp_path_factory.mktemp("fuzz")), config)


def test_the_damage_is_what_it_is_said_to_be():
    images = [fuzzed_images.mutated(number, SEED) for number in range(COUNT)]
    assert images[:50] == [fuzzed_images.mutated(number, SEED) for number in range(50)]
    assert len(set(images)) > 0.95 * COUNT  # Of some that were cut nothing is left.
    whole = sum(image in fuzzed_images.IMAGES for image in images)
    assert whole < 0.02 * COUNT  # A header of the same bytes.


def test_damaged_images_are_answered_or_refused(small):
    command = [sys.executable, fuzzed_images.__file__, small, str(COUNT), str(SEED)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    *numbers, last = result.stdout.splitlines()
    assert result.returncode == 0, f"image {last}: {result.stderr[-2000:]}"
    assert numbers == [str(number) for number in range(COUNT)]
    outcome = json.loads(last)
    assert outcome["wrong"] == {}
    assert outcome["answered"] + outcome["refused"] == COUNT
    assert min(outcome["answered"], outcome["refused"]) > COUNT / 20
    assert outcome["grown_mib"] < 300
