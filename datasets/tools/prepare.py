"""Conversion of any source to sharded TFRecords with a manifest (`--mode=prepare`).

A finished folder contains:

    manifest.json                        see datasets/sources/manifest.py
    train-00000-of-00008.tfrecord, ...   the shards of each split
    progress/                            the plan, and a note per finished shard

Files are written atomically, and a shard's note only after the shard. The same call therefore
resumes after being killed at any moment: it keeps the shards that match their notes, writes the
others, and produces the same bytes. It repairs a finished folder in the same way.
"""

import concurrent.futures
import dataclasses
import itertools
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from absl import logging

from efficientnetv2.common.console import progress_bar, verbosity
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import as_path
from efficientnetv2.datasets.bad_examples import Unreadable
from efficientnetv2.datasets.sources.manifest import Manifest, PreparedSplit, write_manifest
from efficientnetv2.datasets.sources.source import SPLITS
from efficientnetv2.datasets.sources.tfrecord import encode_imagenet, encode_imagenet21k
from efficientnetv2.datasets.tools.prepare_plan import Plan, SplitPlan, make_plan
from efficientnetv2.datasets.tools.shards import (
    Converted,
    FinishedShard,
    converted,
    read_finished,
    write_shard,
)
from efficientnetv2.hparams import Config
from efficientnetv2.hparams.config import DataConfig

_BAR_DELAY = 1.0  # seconds: faster checks show no bar


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Result of `prepare`: the manifest, names left out of each split, shards kept and written.

    Splits with the same examples have the same names left out.
    """

    manifest: Manifest
    left_out: dict[str, tuple[str, ...]]
    shards_kept: int
    shards_written: int


def prepare_data(
    config: Config,
    output_dir: str | os.PathLike,
    *,
    short_side: int | None = None,
    verbose: bool = False,
) -> Prepared:
    """Writes a data set as sharded TFRecords, for fast training; only missing shards are written.

    Args:
        config: from `get_config`; its data set is read.
        output_dir: folder for manifest.json, the shards of each split, and progress/.
        short_side: reduce images to this short side, in pixels; None: copy all byte for byte.
        verbose: show a progress bar.

    Raises: UserError as `prepare` does.

    Example:
        config = effnet.get_config(None, "folder", data_dir="photos")
        effnet.prepare_data(config, "records", short_side=256).manifest.splits["train"].num_examples
    """
    if short_side is not None and short_side < 1:
        raise UserError(f"--short_side must be 1 pixel or more, got {short_side}")
    output_dir = as_path(output_dir, "output_dir")
    with verbosity(verbose):
        return prepare(config.data, output_dir, seed=config.train.seed, short_side=short_side)


def prepare(data_config, folder: str, *, seed: int, short_side: int | None = None) -> Prepared:
    """Writes all splits of a source to `folder`, or the missing shards; the manifest comes last.

    Images are copied byte for byte, except those that `short_side` reduces. An image that cannot be
    decoded is an error; with `data_config.on_error="skip"` it is left out and logged, up to a share
    of `data_config.max_bad_share` of each split.

    Args:
        data_config: `hparams.DataConfig`; `class_balance` is ignored, each example is written once.
        folder: created if it is missing.
        seed: determines the source's splits and the order of the training examples.
        short_side: pixels, see `shards.reduce_short_side`; None: copy all images.

    Raises: UserError if the data cannot be used, `folder` has other content, an image is
        unreadable, or a file cannot be written; the message names it.
    """
    if data_config.ds_name == "folder" and data_config.data_dir:
        _check_apart(data_config.data_dir, folder)
    plan = make_plan(data_config, folder, seed, short_side)
    finished = {p.split: _finished_shards(folder, p) for p in plan.splits}
    kept = sum(len(shards) for shards in finished.values())
    total = sum(p.source.num_examples for p in plan.splits)
    done = sum(_length(p, index) for p in plan.splits for index in finished[p.split])
    with progress_bar(total=total, initial=done, unit="img") as bar:
        for split_plan in plan.splits:
            bar.set_description(split_plan.split)
            job = _Job(data_config, folder, short_side, plan, split_plan, bar)
            _write_missing(job, finished[split_plan.split])
    manifest = _manifest(plan, finished)
    write_manifest(folder, manifest)
    left_out = {split: _left_out(shards) for split, shards in finished.items()}
    left_out |= {split: left_out[other] for split, other in plan.same.items()}
    return Prepared(manifest, left_out, kept, sum(map(len, finished.values())) - kept)


class _Job(NamedTuple):
    """Context that the functions below need to write one split."""

    data_config: DataConfig
    folder: str
    short_side: int | None
    plan: Plan
    split_plan: SplitPlan
    bar: object  # A tqdm bar.


def _check_apart(data_dir: str, folder: str) -> None:
    """Raises UserError if the output would become part of the source."""
    if f"{os.path.abspath(folder)}/".startswith(f"{os.path.abspath(data_dir)}/"):
        raise UserError(f"--output_dir={folder} is in the data_dir; choose a folder outside of it")


def _finished_shards(folder: str, plan: SplitPlan) -> dict[int, FinishedShard]:
    """Returns the shards of a split that match their notes, by their number."""
    bar = progress_bar(desc=f"{plan.split}: checking", unit="B", unit_scale=True, delay=_BAR_DELAY)
    with bar, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as executor:
        names = map(plan.shard_name, range(plan.num_shards))
        shards = executor.map(lambda name: read_finished(folder, name, bar.update), names)
        return {index: shard for index, shard in enumerate(shards) if shard}


def _length(plan: SplitPlan, index: int) -> int:
    return plan.start(index + 1) - plan.start(index)


def _left_out(shards: dict[int, FinishedShard]) -> tuple[str, ...]:
    return tuple(name for index in sorted(shards) for name in shards[index].left_out)


def _write_missing(job: _Job, finished: dict[int, FinishedShard]) -> None:
    """Writes the shards that `finished` lacks, and adds them to it."""
    plan = job.split_plan
    left_out = len(_left_out(finished))
    if left_out:
        _check_left_out(job, left_out, _left_out(finished)[0], "unreadable before")
    missing = [index for index in range(plan.num_shards) if index not in finished]
    # Consecutive missing shards are read in one pass: most sources read what they skip.
    for _, group in itertools.groupby(enumerate(missing), lambda pair: pair[1] - pair[0]):
        run = [index for _, index in group]
        examples = converted(
            plan.source,
            plan.epoch,
            plan.start(run[0]),
            plan.start(run[-1] + 1),
            short_side=job.short_side,
            max_pixels=job.data_config.max_pixels,
        )
        records = _records(job, examples, left_out)
        for index in run:
            name = plan.shard_name(index)
            part = itertools.islice(records, _length(plan, index))
            finished[index] = write_shard(job.folder, name, part)
        left_out = len(_left_out(finished))


def _records(
    job: _Job, examples: Iterator[Converted | Unreadable], left_out: int
) -> Iterator[tuple[bytes, tuple[int, ...]] | str]:
    """Yields (record, labels) of each example, or the name of one that is left out.

    Raises: UserError if an image is unreadable and must not be left out, or if too many are; or if
        a label is not one of the classes.
    """
    names = job.plan.class_names
    for example in examples:
        if isinstance(example, Unreadable):
            left_out += 1
            _check_left_out(job, left_out, example.name, example.fault.reason)
            logging.warning("left out %s: %s", example.name, example.fault.reason)
            yield example.name
        else:
            labels = tuple(np.atleast_1d(example.label).tolist())
            if any(not 0 <= label < len(names) for label in labels):
                name = example.name.decode(errors="replace")
                raise UserError(
                    f"{name} has a label {labels}; the classes are 0 to {len(names) - 1}"
                )
            yield _encoded(job, example, labels), labels
        job.bar.update()


def _encoded(job: _Job, example: Converted, labels: tuple[int, ...]) -> bytes:
    root = (job.data_config.data_dir or "").rstrip("/")
    if root.endswith(".csv"):
        root = os.path.dirname(root)  # The data_dir is the CSV file itself.
    filename = example.name.removeprefix(f"{root}/".encode())
    if job.split_plan.source.multi_label:
        return encode_imagenet21k(example.image, labels, filename)
    name = job.plan.class_names[labels[0]]
    return encode_imagenet(example.image, labels[0], name, filename, *example.size.tolist())


def _check_left_out(job: _Job, count: int, name: str, reason: str) -> None:
    """Raises UserError if images must not be left out, or if there are too many."""
    data, total = job.data_config, job.split_plan.source.num_examples
    if data.on_error != "skip":
        raise UserError(
            f"cannot read the image {name}: {reason}; replace it, or leave it out with "
            "data.on_error=skip; the same command then goes on"
        )
    if count > data.max_bad_share * total:
        raise UserError(
            f"{count} of {total} images of {job.split_plan.split} are unreadable, more than "
            f"data.max_bad_share={data.max_bad_share} allows; the last: {name}: {reason}"
        )


def _manifest(plan: Plan, finished: dict[str, dict[int, FinishedShard]]) -> Manifest:
    splits = {}
    for split, shards in finished.items():
        counts = [0] * len(plan.class_names)
        for shard in shards.values():
            for label, count in shard.label_counts.items():
                counts[label] += count
        ordered = tuple(shards[index].shard for index in sorted(shards))
        total = sum(shard.records for shard in ordered)
        splits[split] = PreparedSplit(total, tuple(counts), ordered)
    splits |= {split: splits[other] for split, other in plan.same.items()}
    ordered_splits = {split: splits[split] for split in SPLITS if split in splits}
    return Manifest(plan.layout, plan.class_names, plan.settings, ordered_splits)
