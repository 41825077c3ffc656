"""What a GIF would unpack to is known before it is decoded."""

import io
import resource
import struct

import broken_files
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from efficientnetv2.datasets import decode
from efficientnetv2.datasets.decode import decode_image, largest_frame

COMMENT = b"\x21\xfe"


def gif(*sizes: tuple[int, int], **options) -> bytes:
    """An animated GIF of frames of these sizes (width, height), on the screen of the first."""
    rng = np.random.default_rng(0)
    frames = [PIL.Image.fromarray(rng.integers(0, 255, (h, w), np.uint8)) for w, h in sizes]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], **options)
    return file.getvalue()


def raw_gif(screen: tuple[int, int], *frames: tuple[int, int], before: bytes = b"") -> bytes:
    """Without colour tables, each frame with a sub-block of a few bytes."""
    content = b"GIF89a" + struct.pack("<HH", *screen) + b"\0\0\0" + before
    for size in frames:
        content += b"\x2c" + struct.pack("<HHHH", 0, 0, *size) + b"\0" + b"\x02\x03abc\0"
    return content + b"\x3b"


def told(content: bytes) -> tuple[list[int], int]:
    size, pixels = largest_frame(content)
    return size.numpy().tolist(), int(pixels)


def test_frames_are_found_behind_colours_and_comments():
    assert told(gif((40, 30))) == ([30, 40], 1200)
    assert told(gif((40, 30), comment=b"x" * 700)) == ([30, 40], 1200)
    assert told(gif((40, 30), (40, 30), disposal=2, duration=50)) == ([30, 40], 2400)
    assert told(broken_files.read_format("frames.gif")) == ([24, 32], 2 * 24 * 32)
    assert told(raw_gif((4, 4), (2, 3), (500, 400), (1, 1))) == ([400, 500], 200_007)
    assert told(raw_gif((4, 4), (2, 3), before=COMMENT + b"\x02ab\x01c\0")) == ([3, 2], 6)


@pytest.mark.parametrize("content", [b"", b"GIF", raw_gif((4, 4)), b"GIF89a" + bytes(7)])
def test_without_a_frame_there_are_no_pixels(content):
    assert told(content) == ([0, 0], 0)


def test_a_block_that_is_cut_off_ends_the_reading():
    whole = raw_gif((4, 4), (2, 3), (5, 5))
    starts = [place for place, byte in enumerate(whole) if byte == 0x2C]
    pixels = [told(whole[:length])[1] for length in range(len(whole) + 1)]
    assert pixels[starts[0]] == 0 and pixels[starts[1]] == 6 and pixels[-1] == 31
    assert pixels == sorted(pixels)  # A size that is cut off is read as less, never as more.


def test_a_frame_larger_than_its_screen_takes_no_memory():
    bomb = raw_gif((10, 10), (20_000, 20_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large.*20000 20000"):
        decode_image(bomb, 10**8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_frames_are_counted_together(monkeypatch):
    content = gif(*[(40, 30)] * 20, disposal=2)
    assert decode_image(content, 1200).shape == (30, 40, 3)
    monkeypatch.setattr(decode, "FRAMES_PIXELS", 20 * 1200 - 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large: all frames.*24000"):
        decode_image(content, 1200)
    assert decode_image(content, 20 * 1200).shape == (30, 40, 3)


def test_blocks_without_end_are_refused_soon():
    content = raw_gif((4, 4), (4, 4), before=COMMENT + b"\x01a" * 500_000 + b"\0")
    assert told(content)[1] == tf.int64.max
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large: all frames"):
        decode_image(content, 10**8)
