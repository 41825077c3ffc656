"""File checks: folder layout, image headers, and libjpeg's warnings about damage that it hides.

Headers are parsed in pure Python, for properties that decoding ignores. libjpeg reports damage only
on stderr.
"""

import os
import re
import struct
import tempfile
from collections.abc import Iterator

import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.sources.files import make_indexed_source
from efficientnetv2.datasets.sources.folder import IMAGE_ENDINGS, _find_split_folders, _list_folders
from efficientnetv2.datasets.sources.source import Source
from efficientnetv2.datasets.tools.findings import Finding

_EXIF = b"Exif\x00\x00"
_ORIENTATION_TAG = 0x0112
_UPRIGHT = (0, 1)  # 0: written by some programs, without meaning
_JPEG = re.compile("JPEG|Inconsistent progression")


def describe(image_bytes: bytes) -> Iterator[str]:
    """Yields which of "cmyk", "exif-rotated", "16-bit" and "animated" an image is.

    Truncated or invalid headers are ignored.
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
    """Yields (marker, start of its data, end of its data) up to the first scan."""
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
    """Returns the orientation in EXIF data, 1 to 8; 0 if there is none."""
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
    """Returns whether a GIF has a second image descriptor."""

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


class StderrWatch:
    """Context manager that captures the output to file descriptor 2, for `jpeg_message`.

    On exit, everything except libjpeg's lines is forwarded. Output that must be visible in the
    meantime has to be written to a duplicate of the descriptor that was created beforehand.
    """

    def __enter__(self):
        self._kept = tempfile.TemporaryFile()
        self._stderr = os.dup(2)
        os.dup2(self._kept.fileno(), 2)
        return self

    def __exit__(self, *_):
        os.dup2(self._stderr, 2)
        lines = self._since(0).splitlines(keepends=True)
        os.write(2, "".join(line for line in lines if not _JPEG.search(line)).encode())
        os.close(self._stderr)
        self._kept.close()

    def size(self) -> int:
        """Returns the number of bytes written so far."""
        return os.fstat(self._kept.fileno()).st_size

    def jpeg_message(self, start: int) -> str:
        """Returns what libjpeg has written after the first `start` bytes, as one line."""
        return "; ".join(line for line in self._since(start).splitlines() if _JPEG.search(line))

    def _since(self, start: int) -> str:
        return os.pread(self._kept.fileno(), self.size() - start, start).decode(errors="replace")


def folder_findings(root: str | None) -> list[Finding]:
    """Lists all empty class folders, classes that `train/` lacks, and files that are not images.

    `open_folder` stops at the first error.
    """
    if root is None or not tf.io.gfile.isdir(root):
        return []  # `open_folder` reports this.
    try:
        trees = _find_split_folders(root, _list_folders(root))
    except UserError:
        return []  # It reports this, too.
    class_roots = {path: split for split, path in (trees or {"all images": root}).items()}
    findings = []
    for class_root, split in class_roots.items():
        for name in _list_folders(class_root):
            folder = tf.io.gfile.join(class_root, name)
            files = list(_visible_files(folder))
            others = [path for path in files if not _is_image(path)]
            findings += (Finding("left out", split, path) for path in others)
            if len(others) == len(files):
                findings.append(Finding("empty class folder", split, folder))
            if trees and name not in _list_folders(trees["train"]):
                findings.append(Finding("class not in train", split, folder))
    return findings


def any_image_source(root: str | None) -> Source | None:
    """Returns all images below a folder, as examples of one class; None if there are none."""
    if root is None or not tf.io.gfile.isdir(root):
        return None
    paths = sorted(path for path in _visible_files(root) if _is_image(path))
    return make_indexed_source(paths, [0] * len(paths), ["image"], 0) if paths else None


def _is_image(path: str) -> bool:
    return path.lower().endswith(IMAGE_ENDINGS)


def _visible_files(folder: str) -> Iterator[str]:
    """Yields file paths; a path with an image extension counts as a file, as in `open_folder`."""
    for name in tf.io.gfile.listdir(folder):
        path = tf.io.gfile.join(folder, name.rstrip("/"))
        if name.startswith("."):
            continue
        if not _is_image(path) and tf.io.gfile.isdir(path):
            yield from _visible_files(path)
        else:
            yield path
