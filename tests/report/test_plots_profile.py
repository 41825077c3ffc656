"""The chart: a valid picture that says what the profile says."""

import struct

import pytest

from efficientnetv2.common.errors import UserError
from efficientnetv2.network.profile import Part, Profile
from efficientnetv2.report.plots import draw_profile, save_chart

PARTS = (
    Part("stem", 200, 60_000_000, 999_600),
    Part("stage 1", 799_800, 39_990_000, 300_400),
    Part("classifier", 200_000, 10_000, 700_000),
)
PROFILE = Profile("net", 96, 1_000_000, 990_000, 100_000_000, 2_000_000, PARTS)


def png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", data[16:24])


def test_the_chart_is_a_picture_of_sane_size(tmp_path):
    save_chart(PROFILE, str(tmp_path / "net.png"))
    width, height = png_size(tmp_path / "net.png")
    assert 800 <= width <= 2000
    assert 200 <= height <= 1500
    assert [path.name for path in tmp_path.iterdir()] == ["net.png"]


def test_bars_are_shares_and_labels_say_counts():
    figure = draw_profile(PROFILE)
    params, macs, activations = figure.axes
    assert figure.get_suptitle().startswith("net at 96 x 96 pixels")
    assert [label.get_text() for label in params.get_yticklabels()] == [p.name for p in PARTS]
    assert [axes.get_title() for axes in figure.axes] == [
        "parameters: 1 M",
        "multiply-adds: 100 M",
        "activations: 2 M",
    ]
    shares = [bar.get_width() for bar in macs.patches]
    assert shares == pytest.approx([0.6, 0.3999, 0.0001])
    assert [text.get_text() for text in params.texts] == [
        "< 0.1%  (200)",
        "80.0%  (800 k)",
        "20.0%  (200 k)",
    ]
    assert activations.texts[0].get_text() == "50.0%  (1 M)"
    assert params.get_xlim() == macs.get_xlim()  # Bars of different panels compare.
    assert params.get_ylim()[0] > params.get_ylim()[1]  # The first part is on top.


def test_a_chart_replaces_an_older_one(tmp_path):
    path = tmp_path / "net.png"
    path.write_bytes(b"old")
    save_chart(PROFILE, str(path))
    assert png_size(path)


def test_a_path_that_cannot_be_written_is_an_error(tmp_path):
    path = str(tmp_path / "missing" / "net.png")
    with pytest.raises(UserError, match=f"cannot write the chart {path}: No such file"):
        save_chart(PROFILE, path)
