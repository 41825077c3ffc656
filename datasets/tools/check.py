"""Data check (`--mode=check_data`): reads all examples of all splits and lists the problems."""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator

import tensorflow as tf

from efficientnetv2.common.console import progress_bar, show, verbosity
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import as_path, make_folder, write_text
from efficientnetv2.datasets.bad_examples import (
    READING_ERRORS,
    clean_message,
    find_fault,
    format_of,
    good_numbers,
)
from efficientnetv2.datasets.decode import decode_image
from efficientnetv2.datasets.sources.registry import open_source
from efficientnetv2.datasets.sources.source import SPLITS, Source
from efficientnetv2.datasets.tools.check_files import (
    StderrWatch,
    any_image_source,
    describe,
    folder_findings,
)
from efficientnetv2.datasets.tools.findings import Finding, count_kinds, findings_table
from efficientnetv2.hparams import Config

FILE_NAME = "check_data.json"
SMALL = 32  # pixels: images with a smaller shorter side are noted
_SKEW = 10  # ratio of the largest to the smallest class from which it is noted
_ENDINGS = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "gif": "GIF", "bmp": "BMP"}
_AHEAD = 256  # examples that may be decoded before the first of them is checked
_DIGEST = 16  # bytes of a sha256 that are kept


@dataclasses.dataclass
class Check:
    """The result of a check.

    Attributes:
        findings: all errors and notes.
        examples: number of examples of each split; splits that cannot be opened are missing.
        class_counts: for each split, the number of readable examples of each class, by name.
    """

    findings: list[Finding] = dataclasses.field(default_factory=list)
    examples: dict[str, int] = dataclasses.field(default_factory=dict)
    class_counts: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)

    @property
    def errors(self) -> int:
        """Number of findings that stop a run, or make its result wrong."""
        return sum(finding.is_error for finding in self.findings)

    def summary(self) -> dict:
        """Returns {"errors", "notes", "examples": {split: number}, "kinds": {kind: number}}."""
        return {
            "errors": self.errors,
            "notes": len(self.findings) - self.errors,
            "examples": self.examples,
            "kinds": count_kinds(self.findings),
        }


def check_data(
    config: Config, *, output_dir: str | os.PathLike | None = None, verbose: bool = False
) -> Check:
    """Reads all examples of all splits and lists their problems before a run encounters them.

    The output of C libraries on stderr is captured and parsed meanwhile.

    Args:
        config: from `get_config`; its data set is read.
        output_dir: folder for check_data.json, which lists all findings.
        verbose: show progress bars, and print a table of the first findings of each kind.

    Raises: UserError if check_data.json cannot be written.

    Example:
        check = effnet.check_data(effnet.get_config(None, "folder", data_dir="photos"))
        for finding in check.findings:
            print(finding.kind, finding.name)
    """
    with verbosity(verbose), _progress_bars() as progress:
        check = check_splits(config.data, config.train.seed, progress)
    with verbosity(verbose):
        show(findings_table(check.findings))
        for split, counts in check.class_counts.items():
            show(f"{split}: {check.examples[split]} examples, {_spread(counts)}")
    if output_dir:
        output_dir = as_path(output_dir, "output_dir")
        make_folder(output_dir)
        findings = [finding._asdict() for finding in check.findings]
        content = {
            **check.summary(),
            "class_counts": check.class_counts,
            "findings": findings,
        }
        write_text(tf.io.gfile.join(output_dir, FILE_NAME), json.dumps(content))
    return check


@contextlib.contextmanager
def _progress_bars() -> Iterator[Callable[[str, int], Callable]]:
    """Yields `progress` for `check_splits`: a bar per split, on the original stderr."""
    bars = []

    def close_bars() -> None:
        for bar in bars:
            bar.close()

    with os.fdopen(os.dup(2), "w") as screen:

        def progress(split: str, count: int):
            close_bars()
            bars.append(progress_bar(total=count, desc=split, unit="images", file=screen))
            return bars[-1].update

        try:
            yield progress
        finally:
            close_bars()


def _spread(counts: dict[str, int]) -> str:
    largest, smallest = max(counts, key=counts.get), min(counts, key=counts.get)
    return (
        f"{len(counts)} classes of {counts[smallest]} ({smallest}) to {counts[largest]} ({largest})"
    )


def check_splits(data_config, seed: int, progress: Callable[[str, int], Callable]) -> Check:
    """Checks the data that `data_config` specifies; captures stderr meanwhile.

    Args:
        data_config: `hparams.DataConfig`.
        seed: the run's seed, which determines what is held out of a folder without splits.
        progress: (split, number of examples) -> a function that is called with the number of
            examples that have been checked since its last call.
    """
    config = dataclasses.replace(data_config, on_error="stop")
    check, seen = Check(), {}
    if config.ds_name == "folder":
        check.findings += folder_findings(config.data_dir)
    sources = _open_all(config, seed, check)
    for split in ("eval", "minival", "train"):  # Small splits first: they are kept in memory.
        if split in sources:
            source = sources[split]
            check.examples[split] = source.num_examples
            tell = progress(split, source.num_examples)
            check.findings += _manifest_findings(config, split)
            _check_split(source, split, config.max_pixels, seen, check, tell)
    if not sources and config.ds_name == "folder":
        source = any_image_source(config.data_dir)
        if source is not None:
            tell = progress("all images", source.num_examples)
            _check_split(source, "all images", config.max_pixels, seen, check, tell)
            del check.class_counts["all images"]
    check.findings += _class_findings(check.class_counts)
    return check


def _open_all(config, seed: int, check: Check) -> dict[str, Source]:
    """Opens the splits that can be opened; of two with the same examples, only the first."""
    sources = {}
    for split in SPLITS:
        try:
            source = open_source(config, split, seed)
        except UserError as error:
            finding = Finding(
                "cannot be opened", split, config.data_dir or config.ds_name, str(error)
            )
            if all(str(error) != other.detail for other in check.findings):
                check.findings.append(finding)
            continue
        if not (split == "eval" and _same_examples(sources.get("minival"), source)):
            sources[split] = source
    return sources


def _same_examples(first: Source | None, second: Source) -> bool:
    """Returns whether two splits have the same examples, as `minival` and `eval` often do."""
    if first is None or first.num_examples != second.num_examples:
        return False
    names = [
        [source.name_of(*record) for record in source.records(None).take(1)]
        for source in (first, second)
    ]
    return bool(tf.reduce_all(tf.equal(*names)))


def _check_split(source: Source, split: str, max_pixels: int, seen: dict, check: Check, tell):
    def example(*record):
        image_bytes, label = source.load(*record)
        size = tf.shape(decode_image(image_bytes, max_pixels))[:2]
        return source.name_of(*record), image_bytes, tf.reshape(label, [-1]), size

    counts, good = collections.Counter(), 0
    suspects = set()  # Positions that failed, or during which libjpeg printed a warning.
    last, written = -1, 0
    results = good_numbers(source.records(None), example).prefetch(_AHEAD // 2)
    with StderrWatch() as watch:
        for number, (name, image_bytes, labels, size) in results.as_numpy_iterator():
            suspects.update(range(last + 1, number))
            if watch.size() > written:
                written = watch.size()
                suspects.update(range(last + 1, min(number + _AHEAD, source.num_examples)))
            last = number
            good += 1
            tell(1)
            name = name.decode()
            counts.update(labels.tolist())
            check.findings += (Finding(kind, split, name) for kind in _notes(name, image_bytes))
            if min(size) < SMALL:
                size_text = f"{size[1]} x {size[0]} pixels"
                check.findings.append(Finding("small", split, name, size_text))
            check.findings += _twins(image_bytes, split, name, labels, seen)
        suspects.update(range(last + 1, source.num_examples))
        check.findings += _faults(source, split, sorted(suspects), max_pixels, watch)
    tell(source.num_examples - good)
    names = source.class_names
    check.class_counts[split] = {name: counts[label] for label, name in enumerate(names)}


def _notes(name: str, image_bytes: bytes) -> Iterator[str]:
    expected = _ENDINGS.get(name.rpartition(".")[2].lower())
    if expected not in (None, format_of(image_bytes)):
        yield "wrong ending"
    yield from describe(image_bytes)


def _twins(image_bytes: bytes, split: str, name: str, labels, seen: dict) -> Iterator[Finding]:
    """Yields findings about an earlier example with the same bytes."""
    digest = hashlib.sha256(image_bytes).digest()[:_DIGEST]
    this = (split, name, labels.tobytes())
    twin = seen.setdefault(digest, this)
    if twin is this:
        return
    other, other_name, other_labels = twin
    if split == "train" != other:
        yield Finding("in train and eval", split, name, f"same bytes as {other}'s {other_name}")
    elif split == other:
        kind = "duplicate" if this[2] == other_labels else "duplicate, other label"
        yield Finding(kind, split, name, f"same bytes as {other_name}")


def _faults(
    source: Source, split: str, numbers: list[int], max_pixels: int, watch: StderrWatch
) -> Iterator[Finding]:
    """Yields the problems of the examples at some positions, if there are any."""
    if not numbers:
        return
    chosen = tf.constant(numbers, tf.int64)
    records = source.records(None).enumerate()
    records = records.filter(lambda number, _: tf.reduce_any(number == chosen))
    reached = 0
    try:
        for _, record in records:
            reached += 1
            written = watch.size()
            fault = find_fault(source, record, max_pixels)
            mended = watch.jpeg_message(written)
            name = source.name_of(*record).numpy().decode()
            if fault is not None:
                yield Finding(fault.kind, split, name, fault.reason)
            elif mended:
                yield Finding("damaged", split, name, mended)
    except READING_ERRORS as error:  # From reading the records themselves.
        rest = f"{len(numbers) - reached} examples cannot be read: {clean_message(error)}"
        yield Finding("broken record", split, "records", rest)


def _manifest_findings(config, split: str) -> Iterator[Finding]:
    """Yields findings about shards of prepared records that do not match their manifest."""
    if config.ds_name != "tfrecord" or config.data_dir is None:
        return
    from efficientnetv2.datasets.sources.manifest import FILE_NAME, read_manifest

    if tf.io.gfile.exists(tf.io.gfile.join(config.data_dir, FILE_NAME)):
        for path, reason in read_manifest(config.data_dir).faults(config.data_dir, split):
            yield Finding("wrong checksum", split, path, reason)


def _class_findings(class_counts: dict[str, dict[str, int]]) -> Iterator[Finding]:
    train = class_counts.get("train")
    if not train:
        return
    for split, counts in class_counts.items():
        if split != "train":
            for name, count in counts.items():
                if count and not train[name]:
                    yield Finding("class not in train", split, name, f"{count} examples")
    for name, count in train.items():
        if not count:
            yield Finding("class without examples", "train", name)
    largest, smallest = max(train, key=train.get), min(train, key=train.get)
    if train[largest] >= _SKEW * max(train[smallest], 1):
        detail = f"{largest} has {train[largest]}, {smallest} {train[smallest]}"
        yield Finding("skewed classes", "train", smallest, f"{detail}; see data.class_balance")
