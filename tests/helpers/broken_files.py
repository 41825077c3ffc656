"""Image files with every fault, made on the spot.

There is no file without permission to read: it stops nobody who is root. A dangling link and a
folder that is named like an image fail in the same place.
"""

import pathlib
import struct
import zlib

import tensorflow as tf

DATA = pathlib.Path(__file__).parents[1] / "data"
GOLDFISH = (DATA / "goldfish.jpg").read_bytes()


def read_format(name: str) -> bytes:
    return (DATA / "formats" / name).read_bytes()


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def with_size(image_bytes: bytes, place: int, form: str, side: int = 20_000) -> bytes:
    """The same file with a header that claims another size, twice `form` at `place`."""
    size = struct.pack(form, side, side)
    return image_bytes[:place] + size + image_bytes[place + len(size) :]


def jpeg_bomb() -> bytes:
    """A goldfish that claims 20,000 x 20,000 pixels."""
    return with_size(GOLDFISH, GOLDFISH.index(b"\xff\xc0") + 5, ">HH")


def corrupt(image_bytes: bytes) -> bytes:
    """Its beginning and end are whole, what lies between is not."""
    return image_bytes[:300] + bytes(len(image_bytes) - 400) + image_bytes[-100:]


def exif_rotated(orientation: int = 6, order: str = ">") -> bytes:
    """A goldfish of a camera that was turned."""
    mark = b"MM" if order == ">" else b"II"
    tiff = mark + struct.pack(order + "HIHHHIHHI", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    exif = b"Exif\x00\x00" + tiff
    return GOLDFISH[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + GOLDFISH[2:]


def dangling_link(path: pathlib.Path) -> None:
    path.symlink_to(path.with_name("gone"))


def place_of_frame(gif: bytes) -> int:
    """Where the width of the first frame of 32 x 24 pixels stands."""
    return gif.index(b"\x2c\0\0\0\0\x20\0\x18\0") + 5


# name -> (ending, content or what makes the file, kind of the fault, a word of the reason)
FAULTS = {
    "zero bytes": (".jpg", b"", "empty", "empty"),
    "text": (".jpg", b"<html>not found</html>", "not an image", "no JPEG"),
    "binary": (".png", bytes(range(128, 256)), "not an image", "no JPEG"),
    "truncated jpeg": (".jpg", GOLDFISH[:9000], "truncated", "truncated JPEG"),
    "truncated head": (".jpg", GOLDFISH[:100], "truncated", "truncated JPEG"),
    "truncated png": (".png", read_format("rgb.png")[:70], "truncated", "truncated PNG"),
    "truncated gif": (".gif", read_format("frames.gif")[:300], "truncated", "truncated GIF"),
    "truncated bmp": (".bmp", read_format("rgb.bmp")[:900], "truncated", "truncated BMP"),
    "corrupt jpeg": (".jpg", corrupt(GOLDFISH), "corrupt", "corrupt JPEG"),
    "corrupt png": (".png", png_of(8, 8), "corrupt", "corrupt PNG"),
    "jpeg bomb": (".jpg", jpeg_bomb(), "too large", "20000 x 20000"),
    "png bomb": (".png", png_of(20_000, 20_000), "too large", "20000 x 20000"),
    "bmp bomb": (
        ".bmp",
        with_size(read_format("rgb.bmp"), 18, "<ii"),
        "too large",
        "20000 x 20000",
    ),
    "gif bomb": (".gif", with_size(read_format("frames.gif"), 6, "<HH"), "too large", "20000"),
    "gif frame bomb": (
        ".gif",
        with_size(read_format("frames.gif"), place_of_frame(read_format("frames.gif")), "<HH"),
        "too large",
        "20000 x 20000",
    ),
    "dangling link": (".jpg", dangling_link, "unreadable", "No such file"),
    "folder": (".jpg", pathlib.Path.mkdir, "unreadable", "directory"),
}

# name -> (ending, content, kind of the note)
HARMLESS = {
    "png named jpg": (".jpg", read_format("rgb.png"), "wrong ending"),
    "animated gif": (".gif", read_format("frames.gif"), "animated"),
    "cmyk": (".jpg", read_format("cmyk.jpg"), "cmyk"),
    "16 bit": (".png", read_format("grey16.png"), "16-bit"),
    "exif": (".jpg", exif_rotated(), "exif-rotated"),
    "exif, other order": (".jpg", exif_rotated(8, "<"), "exif-rotated"),
}


def write(path: pathlib.Path, content) -> None:
    """Writes bytes, or has a function make what is at `path`."""
    path.write_bytes(content) if isinstance(content, bytes) else content(path)


def make_photos(folder: pathlib.Path, per_class: int = 6, splits=("train", "val")) -> None:
    """Different small photos of the classes a and b."""
    for split_index, split in enumerate(splits):
        for label, name in enumerate("ab"):
            (folder / split / name).mkdir(parents=True)
            for index in range(per_class):
                noise = tf.random.stateless_uniform(
                    [40, 50, 3], [split_index * 2 + label, index], 0, 256, tf.int32
                )
                jpeg = tf.io.encode_jpeg(tf.cast(noise, tf.uint8)).numpy()
                (folder / split / name / f"{index}.jpg").write_bytes(jpeg)
