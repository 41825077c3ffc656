"""Facts of an encoded image that decoding passes over, read from its headers in pure Python."""

import struct
from collections.abc import Iterator

_EXIF = b"Exif\x00\x00"
_ORIENTATION_TAG = 0x0112
_UPRIGHT = (0, 1)  # 0: written by some programs, means nothing


def describe(image_bytes: bytes) -> Iterator[str]:
    """Yields which of "cmyk", "exif-rotated", "16-bit" and "animated" an image is.

    Headers that are cut off or make no sense say nothing.
    """
    try:
        if image_bytes.startswith(b"\xff\xd8"):
            yield from _describe_jpeg(image_bytes)
        elif image_bytes.startswith(b"\x89PNG") and image_bytes[24] == 16:
            yield "16-bit"
        elif image_bytes.startswith(b"GIF8") and _has_two_frames(image_bytes):
            yield "animated"
    except (struct.error, IndexError):
        return


def _describe_jpeg(image_bytes: bytes) -> Iterator[str]:
    for marker, start, end in _jpeg_segments(image_bytes):
        is_frame = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
        if is_frame and image_bytes[start + 5] == 4:  # components
            yield "cmyk"
        is_exif = marker == 0xE1 and image_bytes.startswith(_EXIF, start)
        if is_exif and orientation(image_bytes[start + len(_EXIF) : end]) not in _UPRIGHT:
            yield "exif-rotated"


def _jpeg_segments(image_bytes: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, where its data start, where they end) up to the first scan."""
    place = 2
    while True:
        if image_bytes[place] != 0xFF:
            return
        marker = image_bytes[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        if marker in (0xD9, 0xDA):
            return
        (length,) = struct.unpack_from(">H", image_bytes, place + 2)
        yield marker, place + 4, place + 2 + length
        place += 2 + length


def orientation(tiff: bytes) -> int:
    """The orientation that EXIF data state, 1 to 8; 0 if they state none."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 0
    (place,) = struct.unpack_from(order + "I", tiff, 4)
    (entries,) = struct.unpack_from(order + "H", tiff, place)
    for entry in range(entries):
        tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, place + 2 + 12 * entry)
        if tag == _ORIENTATION_TAG:
            return value
    return 0


def _has_two_frames(image_bytes: bytes) -> bool:
    """Whether a GIF has a second image descriptor."""

    def after_colours(place: int, flags: int) -> int:
        return place + (3 << (flags % 8 + 1) if flags & 0x80 else 0)

    def after_blocks(place: int) -> int:
        while image_bytes[place]:
            place += 1 + image_bytes[place]
        return place + 1

    frames, place = 0, after_colours(13, image_bytes[10])
    while frames < 2:
        kind = image_bytes[place]
        if kind == 0x21:  # extension
            place = after_blocks(place + 2)
        elif kind == 0x2C:  # image
            frames += 1
            place = after_blocks(after_colours(place + 10, image_bytes[place + 9]) + 1)
        else:
            return False
    return True
