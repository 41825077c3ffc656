"""Bad examples: detecting, reporting and skipping examples that cannot be read or decoded.

TensorFlow's errors name neither the example nor the cause. With `data.on_error=skip`, the next good
example of the group replaces a bad one in a training batch, so that a batch remains a function of
(config, seed, epoch, step). Any other error still ends the run.
"""

import contextlib
import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.decode import decode_image
from efficientnetv2.datasets.sources.source import Source
from efficientnetv2.hparams import DataConfig

READING_ERRORS = (
    tf.errors.InvalidArgumentError,  # cannot be decoded, or is too large
    tf.errors.DataLossError,  # a broken record
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.FailedPreconditionError,  # a folder where a file should be
    tf.errors.OutOfRangeError,  # a truncated file
    UnicodeDecodeError,  # TensorFlow's message quotes the data, which is not valid text
)
_MAX_TEXT = 400  # characters of TensorFlow's message that are kept
_NUMBERS_AT_ONCE = 256
# First bytes, last bytes and name of each format. Data after the last bytes are ignored.
_FORMATS = (
    (b"\xff\xd8\xff", b"\xff\xd9", "JPEG"),
    (b"\x89PNG", b"IEND", "PNG"),
    (b"GIF8", b"\x00;", "GIF"),
    (b"BM", b"", "BMP"),
)
_NAMED = 3  # names in a message


class Fault(NamedTuple):
    """A fault of an example: `kind` is its category, `reason` describes it in messages."""

    kind: str
    reason: str


class Unreadable(NamedTuple):
    """An example that cannot be read or decoded."""

    name: str
    fault: Fault


def find_fault(source: Source, record: tuple, max_pixels: int | None = None) -> Fault | None:
    """Reads and fully decodes one example; returns its fault, or None if there is none.

    The kinds are "unreadable" (a storage error), "broken record", "empty", "not an image",
    "too large", "truncated" and "corrupt".

    Args:
        source: the source of the example.
        record: the parts of its record.
        max_pixels: larger images are "too large".
    """
    try:
        image_bytes = source.load(*record)[0].numpy()
    except READING_ERRORS as error:
        is_record = isinstance(error, (tf.errors.InvalidArgumentError, UnicodeDecodeError))
        name = source.name_of(*record).numpy().decode()  # Messages name it already.
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
    """Detects "JPEG", "PNG", "GIF" or "BMP" from the first bytes, not from the file extension."""
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
    """Returns TensorFlow's message as one line, without operation names."""
    text = " ".join((getattr(error, "message", None) or str(error)).split())
    text = re.sub(r"\{\{.*?\}\} ?|\[\[.*?\]\]|\[Op:.*|Error in user-defined.*?:\s", "", text)
    # Assertions in graph mode and in eager mode.
    text = re.sub(r"assertion failed: \[(.*)\]", r"\1", text)
    text = re.sub(r"Expected '.*' to be true. Summarized data: b(['\"])(.*)\1", r"\2", text)
    return text.strip().encode("ascii", "backslashreplace").decode()[:_MAX_TEXT]


def good_numbers(records: tf.data.Dataset, example: Callable) -> tf.data.Dataset:
    """Runs `example` on all records in parallel and drops those for which it fails.

    Returns: (position in `records`, int64; result of `example`), in order.
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
    """Finds the first example that cannot be read or decoded, on all cores; None if all can.

    Args:
        sources: searched one after the other.
        max_pixels: larger images count as unreadable.
        first_number: where to start in the first source: position n % N of epoch n // N, with N
            examples per epoch. That epoch is searched to its end, then from its beginning. The
            other sources, and the first one if this is 0, are read in their fixed order.
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

    tested = 0  # All records before this one are good, by the fast pass or by `_closer`.
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
    """Reads a few examples one by one; returns the first unreadable one, or None."""
    name = "the first record"
    try:
        for record in records:
            name = source.name_of(*record).numpy().decode()
            fault = find_fault(source, record, max_pixels)
            if fault is not None:
                return Unreadable(name, fault)
            name = f"the record after {name}"
    except READING_ERRORS as error:  # From a source that does not replace broken records.
        return Unreadable(name, Fault("broken record", clean_message(error)))
    return None


@contextlib.contextmanager
def explain_reading_errors(
    sources: Iterable[Source],
    data_config: DataConfig | None = None,
    first_number: Callable[[], int] = lambda: 0,
) -> Iterator[None]:
    """Turns a reading error into a UserError that names the example and the reason.

    Args:
        sources: the sources of the examples; searched one after the other.
        data_config: the settings with which they were opened.
        first_number: returns where to start in the first source, see `find_unreadable`.
    """
    try:
        yield
    except READING_ERRORS as error:
        inner = user_error_in(error)
        if inner is not None:
            raise inner from error
        logging.warning("looking for an example that cannot be read")
        max_pixels = data_config.max_pixels if data_config else None
        found = find_unreadable(sources, max_pixels=max_pixels, first_number=first_number())
        if found is None:
            raise
        raise UserError(
            f"cannot read {found.name}: {found.fault.reason}; fix or remove it, or set "
            "data.on_error=skip. --mode=check_data finds all such"
        ) from error


def user_error_in(error: Exception) -> UserError | None:
    """Returns the UserError of a Python function in tf.data, which TensorFlow wraps, or None."""
    _, marker, text = str(error).partition("UserError: ")
    return UserError(text.splitlines()[0]) if marker else None


class BadExamples:
    """Counts the bad examples of one split, logs each once, and raises if there are too many.

    An object serves one split in one process: a resumed run starts a new count. Thread-safe.
    """

    def __init__(self, source: Source, split: str, data_config):
        """Uses `max_bad_share` and `max_pixels` of `data_config`, a `hparams.DataConfig`."""
        self._source = source
        self._split = split
        self._max_share = data_config.max_bad_share
        self._max_pixels = data_config.max_pixels
        self._names: dict[str, str] = {}  # Keyed by record, since names are not unique.
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Number of distinct bad examples."""
        return len(self._names)

    @property
    def names(self) -> tuple[str, ...]:
        """Names and reasons of the bad examples, in the order of their first occurrence."""
        return tuple(self._names.values())

    def report(self, *record) -> None:
        """Records one bad example, given the parts of its record.

        Raises: UserError if there are too many, or if the example has no fault: then the error has
            another cause and must not be attributed to the example.
        """
        key = hashlib.sha256(repr(record).encode()).digest()
        record = tuple(tf.convert_to_tensor(part) for part in record)
        with self._lock:
            if key in self._names:
                return
            name = self._source.name_of(*record).numpy().decode()
            fault = find_fault(self._source, record, self._max_pixels)
            if fault is None:
                raise UserError(
                    f"{name} failed in the pipeline, but can be read and decoded: the storage "
                    "failed for a moment, or the program is at fault; run again, with "
                    "data.on_error=stop to see the error"
                )
            if fault.kind == "broken record":  # The settings do not match the data.
                raise UserError(f"{name} {fault.reason}")
            self._names[key] = f"{name} ({fault.reason})"
            logging.warning("%s: skips %s: %s", self._split, name, fault.reason)
            self._check_share()

    def _check_share(self) -> None:
        total = self._source.num_examples
        if self.count > self._max_share * total:
            first = "; ".join(self.names[:_NAMED])
            more = "" if self.count <= _NAMED else "; ..."
            raise UserError(
                f"{self.count} of the {total} examples of {self._split} are bad, more than "
                f"data.max_bad_share={self._max_share:g} allows: {first}{more}. "
                "See all with --mode=check_data, mend them, or raise data.max_bad_share"
            )


def load_group(
    elements: tuple,
    example: Callable,
    records: tuple[tf.Tensor, ...],
    bad: BadExamples,
    *,
    replace: bool = True,
):
    """Builds the examples of a group, without the bad ones, inside a tf.data map.

    Bad examples are reported to `bad` through a Python callback that runs only for groups
    containing one; the pipeline therefore works in this process only, not through tf.data service.
    `example` should exclude steps that never fail because of the data, such as augmentation.

    Args:
        elements: tensors [n, ...], the arguments of `example`.
        example: maps the parts of one element to any structure of tensors with static shapes. It
            may fail in the graph if an example cannot be read or decoded.
        records: tensors [n, ...], the parts of the elements' records in the source.
        replace: replace a bad example with the next good one, cyclically; if False, drop it.

    Returns: the structure that `example` returns, stacked: [n, ...], or [number of good examples,
        ...] if not `replace`.
    Raises: in the graph, UserError (as tf.errors.InvalidArgumentError) if `bad` raises it, or if
        all examples are bad and `replace` is set.
    """
    count = tf.shape(tf.nest.flatten(records)[0])[0]
    numbered = tf.data.Dataset.from_tensor_slices((tf.range(count), *elements))
    examples = numbered.map(lambda position, *parts: (position, example(*parts)))
    # A group without a good example yields no batch, so an empty one is appended as a fallback.
    good = examples.ignore_errors().batch(tf.cast(count, tf.int64))
    nothing = tf.data.Dataset.from_tensors(tf.nest.map_structure(_empty, good.element_spec))
    positions, examples = good.concatenate(nothing).take(1).get_single_element()

    def without_bad():
        is_bad = tf.tensor_scatter_nd_update(
            tf.ones([count], tf.bool), positions[:, None], tf.zeros_like(positions, tf.bool)
        )
        needed = positions if replace else None
        told = _tell(bad, [tf.boolean_mask(part, is_bad) for part in records], needed)
        with tf.control_dependencies([told]):
            if not replace:
                return tf.nest.map_structure(tf.identity, examples)
            # The first good position at or after each position, wrapping around at the end.
            slots = tf.searchsorted(positions, tf.range(count)) % tf.size(positions)
        return tf.nest.map_structure(lambda part: tf.gather(part, slots), examples)

    examples = tf.cond(tf.size(positions) < count, without_bad, lambda: examples)
    size = tf.nest.flatten(records)[0].shape[0] if replace else None
    for part in tf.nest.flatten(examples):
        part.set_shape([size, *part.shape[1:]])
    return examples


def _empty(spec: tf.TensorSpec) -> tf.Tensor:
    return tf.zeros([size or 0 for size in spec.shape], spec.dtype)


def _tell(bad: BadExamples, parts: list[tf.Tensor], needed: tf.Tensor | None) -> tf.Tensor:
    """Reports the records whose parts are stacked in `parts`.

    Raises: UserError, in the graph, if `needed` is given but empty: there is no replacement.
    """

    def report(left: np.ndarray, *columns: np.ndarray) -> np.bool_:
        for record in zip(*columns):
            bad.report(*record)
        if not left:
            raise UserError(
                f"none of the {len(columns[0])} examples of a group can be read, such as "
                f"{bad.names[0]}; mend them"
            )
        return np.bool_(True)

    left = 1 if needed is None else tf.size(needed)
    return tf.numpy_function(report, [left, *parts], tf.bool)
