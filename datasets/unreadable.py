"""What is wrong with an example, and which one it is: TensorFlow's errors name neither."""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import tensorflow as tf

from datasets.decoding import decode_image
from datasets.sources import Source

READING_ERRORS = (
    tf.errors.InvalidArgumentError,  # cannot be decoded, or is too large
    tf.errors.DataLossError,  # a broken record
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.FailedPreconditionError,  # a folder where a file should be
    tf.errors.OutOfRangeError,  # the end of a file that is cut off
    UnicodeDecodeError,  # TensorFlow's message quotes the data, which is no text
)
_MAX_TEXT = 400  # characters of TensorFlow's own words
_NUMBERS_AT_ONCE = 256
# How a format begins, how it ends, and its name. What follows the end does not matter.
_FORMATS = (
    (b"\xff\xd8\xff", b"\xff\xd9", "JPEG"),
    (b"\x89PNG", b"IEND", "PNG"),
    (b"GIF8", b"\x00;", "GIF"),
    (b"BM", b"", "BMP"),
)


class Fault(NamedTuple):
    """What is wrong: `kind` is one of a few words, `reason` says it to a reader."""

    kind: str
    reason: str


class Unreadable(NamedTuple):
    """An example that cannot be read or decoded."""

    name: str
    fault: Fault


def find_fault(source: Source, record: tuple, max_pixels: int | None = None) -> Fault | None:
    """Reads and decodes one example, whole; None if nothing is wrong with it.

    The kinds: "unreadable" (the storage refuses it), "broken record", "empty", "not an image",
    "too large", "truncated", "corrupt".

    Args:
        source: where it is from.
        record: the parts of its record.
        max_pixels: more are "too large".
    """
    try:
        image_bytes = source.load(*record)[0].numpy()
    except READING_ERRORS as error:
        is_record = isinstance(error, (tf.errors.InvalidArgumentError, UnicodeDecodeError))
        name = source.name_of(*record).numpy().decode()  # Not twice in a message.
        reason = clean_message(error).removeprefix(name).lstrip("; ")
        return Fault("broken record" if is_record else "unreadable", reason)
    if not image_bytes:
        return Fault("empty", "it is empty")
    try:
        decode_image(image_bytes, max_pixels)
    except READING_ERRORS as error:
        return _decoding_fault(image_bytes, max_pixels, error)
    return None


def format_of(image_bytes: bytes) -> str | None:
    """ "JPEG", "PNG", "GIF" or "BMP" by how the bytes begin, whatever the file's name says."""
    return next((name for start, _, name in _FORMATS if image_bytes.startswith(start)), None)


def _decoding_fault(image_bytes: bytes, max_pixels: int | None, error: Exception) -> Fault:
    image_format = format_of(image_bytes)
    if image_format is None:
        start = image_bytes[:8]
        return Fault("not an image", f"it is no JPEG, PNG, BMP or GIF: it begins with {start}")
    message = clean_message(error)
    if stated := re.search(r"too large: height and width are\W+(\d+) (\d+)", message):
        height, width = stated.groups()
        return Fault(
            "too large", f"it has {width} x {height} pixels, more than data.max_pixels={max_pixels}"
        )
    if stated := re.search(r"too large: all frames have pixels\W+(\d+)", message):
        return Fault("too large", f"its frames have {stated[1]} pixels, too many to unpack")
    if _is_cut_off(image_bytes, image_format):
        return Fault("truncated", f"it is a truncated {image_format} of {len(image_bytes)} bytes")
    return Fault("corrupt", f"it is a corrupt {image_format}: {message}")


def _is_cut_off(image_bytes: bytes, image_format: str) -> bool:
    if image_format == "BMP":
        return len(image_bytes) < int.from_bytes(image_bytes[2:6], "little")
    end = next(end for _, end, name in _FORMATS if name == image_format)
    return end not in image_bytes[-1024:]  # Some programs append a few bytes.


def clean_message(error: Exception) -> str:
    """TensorFlow's words in one line, without the names of its operations."""
    text = " ".join((getattr(error, "message", None) or str(error)).split())
    text = re.sub(r"\{\{.*?\}\} ?|\[\[.*?\]\]|\[Op:.*|Error in user-defined.*?:\s", "", text)
    # Of an assertion: in a graph, and outside of one.
    text = re.sub(r"assertion failed: \[(.*)\]", r"\1", text)
    text = re.sub(r"Expected '.*' to be true. Summarized data: b(['\"])(.*)\1", r"\2", text)
    return text.strip().encode("ascii", "backslashreplace").decode()[:_MAX_TEXT]


def good_numbers(records: tf.data.Dataset, example: Callable) -> tf.data.Dataset:
    """Runs `example` on all records, in parallel, and leaves out those where it fails.

    Returns: (position in `records`, int64; what `example` returned), in order.
    """
    return (
        records.enumerate()
        .map(
            lambda number, record: (number, example(*record)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        .ignore_errors(log_warning=False)
    )


def find_unreadable(
    sources: Iterable[Source], *, max_pixels: int | None = None, first_number: int = 0
) -> Unreadable | None:
    """Finds the first example that cannot be read and decoded, on all cores; None if all can.

    Args:
        sources: are looked through one after the other.
        max_pixels: larger images count as unreadable.
        first_number: where in the first source to begin: position n % N of epoch n // N, with N
            examples in an epoch. That epoch is looked through to its end, then from its beginning.
            The other sources, and the first one if this is 0, are read in their fixed order.
    """
    for index, source in enumerate(sources):
        epoch, skip = divmod(0 if index else first_number, source.num_examples)
        epoch = tf.constant(epoch, tf.int64) if not index and first_number else None
        found = _first_bad(source, source.records(epoch, skip), max_pixels)
        if found is None and skip:
            found = _first_bad(source, source.records(epoch, 0).take(skip), max_pixels)
        if found is not None:
            return found
    return None


def _first_bad(
    source: Source, records: tf.data.Dataset, max_pixels: int | None
) -> Unreadable | None:
    def example(*record):
        return tf.size(decode_image(source.load(*record)[0], max_pixels))

    tested = 0  # Records before this one are known, good or not bad when looked at closer.
    numbers = good_numbers(records, example).map(lambda number, _: number).batch(_NUMBERS_AT_ONCE)
    end = tf.data.Dataset.from_tensors(tf.cast(records.cardinality(), tf.int64)[None])
    for block in numbers.concatenate(end).as_numpy_iterator():
        for number in block.tolist():
            found = _closer(source, records.skip(tested).take(number - tested), max_pixels)
            if found is not None:
                return found
            tested = number + 1
    return None


def _closer(source: Source, records: tf.data.Dataset, max_pixels: int | None) -> Unreadable | None:
    """The first unreadable example of a few, one after the other."""
    name = "the first record"
    try:
        for record in records:
            name = source.name_of(*record).numpy().decode()
            fault = find_fault(source, record, max_pixels)
            if fault is not None:
                return Unreadable(name, fault)
            name = f"the record after {name}"
    except READING_ERRORS as error:  # Of the records: a source that does not replace broken ones.
        return Unreadable(name, Fault("broken record", clean_message(error)))
    return None
