"""Bad examples: finding, naming and skipping what cannot be read or decoded.

TensorFlow's errors name neither the example nor the fault. With `data.on_error=skip` a bad
example's slot of a training batch is taken by the next good one of its group, so that a batch stays
a function of (config, seed, epoch, step). Any other error still ends the run.
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
_NAMED = 3  # names in a message


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


@contextlib.contextmanager
def explain_reading_errors(
    sources: Iterable[Source],
    data_config: DataConfig | None = None,
    first_number: Callable[[], int] = lambda: 0,
) -> Iterator[None]:
    """Turns the error of an example that cannot be read into a UserError that names it and why.

    Args:
        sources: where the examples are from; searched one after the other.
        data_config: the settings that they were opened with.
        first_number: -> where in the first source to begin searching, see `find_unreadable`.
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
    """The UserError that a Python function inside tf.data raised, which TensorFlow wraps."""
    _, marker, text = str(error).partition("UserError: ")
    return UserError(text.splitlines()[0]) if marker else None


class BadExamples:
    """Counts the bad examples of one split, logs each once, and says when there are too many.

    One object is for one split of one run of the program: a resumed run counts anew. It may be
    used by many threads.
    """

    def __init__(self, source: Source, split: str, data_config):
        """Uses `max_bad_share` and `max_pixels` of `data_config`, a `hparams.DataConfig`."""
        self._source = source
        self._split = split
        self._max_share = data_config.max_bad_share
        self._max_pixels = data_config.max_pixels
        self._names: dict[str, str] = {}  # Of an example, by its record: not all names differ.
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many distinct examples were bad."""
        return len(self._names)

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, in the order in which they were met."""
        return tuple(self._names.values())

    def report(self, *record) -> None:
        """Notes one bad example, by the parts of its record.

        Raises: UserError if it is one too many, or if nothing is wrong with it: then the error that
            brought it here is not the example's, and must not pass for it.
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
            if fault.kind == "broken record":  # Not the data: the settings do not fit them.
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
    """Makes the examples of a group, without the bad ones, inside a tf.data map.

    What is bad is told to `bad` by a Python function, which runs only for a group with bad
    examples; so a pipeline with it works in this process only, not through tf.data service.
    Keep out of `example` what cannot fail for the data's sake, such as augmentation.

    Args:
        elements: tensors [n, ...], the arguments of `example`.
        example: one element's parts -> any structure of tensors of static shapes. May fail in the
            graph because an example cannot be read or decoded.
        records: tensors [n, ...], the parts of the elements' records in the source.
        replace: put the next good example, cyclic, into the slot of a bad one; else leave it out.

    Returns: `example`'s structure, stacked: [n, ...], or if not `replace` [number of good ones,
        ...].
    Raises: in the graph, UserError (as tf.errors.InvalidArgumentError) if `bad` raises it, or if
        all are bad and `replace`.
    """
    count = tf.shape(tf.nest.flatten(records)[0])[0]
    numbered = tf.data.Dataset.from_tensor_slices((tf.range(count), *elements))
    examples = numbered.map(lambda position, *parts: (position, example(*parts)))
    # A group without a good example would have no batch: an empty one follows for it.
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
            # The first good position at or after each position; beyond the last one, the first.
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

    Raises: UserError, in the graph, if `needed` is given and empty: then there is no replacement.
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
