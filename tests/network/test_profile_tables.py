"""Profiles as text and as JSON."""

import json

import pytest

from efficientnetv2.hparams.models import Figure, Published
from efficientnetv2.network.profile import Part, Profile, profile_record, profile_table

PARTS = (
    Part("stem", 1_000_000, 300_000_000, 500_000),
    Part("classifier", 4_340_000, 93_000_000, 5),
)
FIGURES = (
    Published("first", 224, Figure("5.3", 10**6), Figure("0.39", 10**9)),
    Published("second", 224, Figure("6.0", 10**6), Figure("0.50", 10**9)),
    Published("third", 600, Figure("5.3", 10**6), Figure("37", 10**9)),
    Published("fourth", 224, Figure("5", 10**6), None),
)
KNOWN = Profile("net-b0", 224, 5_340_000, 5_280_000, 393_000_000, 500_005, PARTS, FIGURES)
UNKNOWN = Profile("another-net", 64, 12_000, 12_000, 1_500_000_000, 1_250_000, PARTS)


def cells(line):
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_a_line_has_the_counts_beside_the_published_figures():
    _, known, unknown = profile_table([KNOWN, UNKNOWN]).splitlines()[:3]
    assert cells(known) == [
        "net-b0",
        "224",
        "5.34",
        "5.28",
        "5.3, 6.0 (-12.0%), 5.3, 5",
        "0.393",
        "0.39, 0.50 (-21.4%)",  # Not the figure for 600 pixels.
        "0.5",
        "21.4",
    ]
    assert cells(unknown) == ["another-net", "64", "0.01", "0.01", "-", "1.500", "-", "1.2", "0.0"]


def test_columns_are_aligned():
    lines = profile_table([KNOWN, UNKNOWN]).splitlines()[:3]
    assert len({len(line) for line in lines}) == 1
    assert cells(lines[0])[:2] == ["model", "size"]


def test_a_record_survives_json():
    record = json.loads(json.dumps(profile_record(KNOWN)))
    assert {key: record[key] for key in ("model", "image_size", "params", "trainable_params")} == {
        "model": "net-b0",
        "image_size": 224,
        "params": 5_340_000,
        "trainable_params": 5_280_000,
    }
    assert (record["macs"], record["activations"]) == (393_000_000, 500_005)
    assert record["megabytes"] == pytest.approx(21.36)
    assert record["parts"][1] == {
        "name": "classifier",
        "params": 4_340_000,
        "macs": 93_000_000,
        "activations": 5,
    }


def test_a_record_tells_what_agrees_and_what_cannot_be_compared():
    first, second, third, fourth = profile_record(KNOWN)["published"]
    assert first == {
        "source": "first",
        "image_size": 224,
        "params": 5.3e6,
        "params_agree": True,
        "macs": 0.39e9,
        "macs_agree": True,
        "macs_difference": pytest.approx(0.393 / 0.39 - 1),
    }
    assert (second["params_agree"], second["macs_agree"]) == (False, False)
    assert (third["macs"], third["macs_agree"], third["macs_difference"]) == (37e9, None, None)
    assert (fourth["macs"], fourth["macs_agree"]) == (None, None)
