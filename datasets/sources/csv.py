"""Images listed in CSV files with path and label.

There is one file per split, `splits.SPLIT.files` in data_dir; the defaults are train.csv, val.csv
and test.csv (also validation.csv, valid.csv), used for the splits as the folders in `folder.py`
are. Alternatively, a single file, images.csv or data_dir itself, is split like a folder without
splits.

A row has a path and a label; further columns are ignored. If the first row contains `path` and
`label` (case-insensitive), it is a header, and the columns may be in any order. Paths are relative
to the folder of the CSV file, absolute, or remote. Blank rows are skipped.

A label is a class name. With `label_file` it is one of the names in that file, or else a class
number, counted from 0. Without it, the classes are the labels of train, sorted, numerically if all
are integers. With `multiclass` a label is any number of these, separated by "|", or none.
"""

import collections
import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
from absl import logging

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.labels import class_names_of, read_text
from efficientnetv2.datasets.sources.files import make_indexed_source
from efficientnetv2.datasets.sources.folder import VALIDATION_NAMES, held_out
from efficientnetv2.datasets.sources.source import Source
from efficientnetv2.hparams import nearest

_SINGLE_FILE = "images.csv"
_MOST_HINTS = 1000  # classes up to which messages suggest the nearest name


class _Row(NamedTuple):
    """A row of a CSV file; `line` is its line number for messages."""

    path: str
    labels: tuple[str, ...]
    file: str
    line: int

    def place(self) -> str:
        return f"{self.file}, line {self.line}"

    def name(self) -> str:
        """Returns the path relative to the CSV file, so that moving the data keeps the split."""
        return self.path.removeprefix(self.file.rpartition("/")[0] + "/")


def open_csv(data_config, split: str, seed: int) -> Source:
    """Opens one split of the images listed in the CSV files in `data_config.data_dir`.

    The existence of the images is checked by listing each folder in the paths once.

    Raises: UserError naming the file and line of a row without path or label, a missing image or an
        unknown class; or if there are no files, images or classes.
    """
    files = _split_files(data_config)
    if isinstance(files, str):
        rows = _read_rows(files, data_config.multiclass)
        train, own = rows, _part_of(rows, split, data_config, seed)
    else:
        train = _read_rows(files["train"], data_config.multiclass)
        own = train if split == "train" else _read_rows(files[split], data_config.multiclass)
        _warn_of_shared(train, own, split)
    names = _class_names(data_config, train)
    labels = _numbers(own, names, data_config.label_file)
    if not own:
        raise UserError(f"no images for {split!r} in {data_config.data_dir!r}; add rows")
    _check_existence(own)
    return make_indexed_source(
        [row.path for row in own],
        labels if data_config.multiclass else [label for (label,) in labels],
        names,
        seed,
        multi_label=data_config.multiclass,
        balanced=split == "train" and data_config.class_balance == "sample",
    )


def _split_files(data_config) -> str | dict[str, str]:
    """Returns the CSV file of each split, or the single file to be split.

    Raises: UserError if there is none, or none for a split.
    """
    root = data_config.data_dir
    if root is None or not tf.io.gfile.exists(root):
        raise UserError(f"data_dir {root!r} does not exist; pass --data_dir=PATH of the CSV files")
    if not tf.io.gfile.isdir(root):
        return root
    chosen = {s: getattr(data_config.splits, s).files for s in ("train", "minival", "eval")}
    validation = _existing(root, [f"{name}.csv" for name in VALIDATION_NAMES])
    test = _existing(root, ["test.csv"])
    found = {
        "train": chosen["train"] or _existing(root, ["train.csv"]),
        "minival": chosen["minival"] or validation or test,
        "eval": chosen["eval"] or test or validation,
    }
    if found["train"] is None and _existing(root, [_SINGLE_FILE]):
        return tf.io.gfile.join(root, _SINGLE_FILE)
    for split, name in found.items():
        if name is None:
            raise UserError(
                f"{root!r} has no CSV file for {split}: train.csv and val.csv or test.csv, or one "
                f"{_SINGLE_FILE} to be split; add it or set data.splits.{split}.files"
            )
    return {split: tf.io.gfile.join(root, name) for split, name in found.items()}


def _existing(root: str, names: Sequence[str]) -> str | None:
    return next((n for n in names if tf.io.gfile.exists(tf.io.gfile.join(root, n))), None)


def _read_rows(path: str, multiclass: bool) -> list[_Row]:
    """Reads the rows of a CSV file.

    Raises: UserError if the file cannot be read, or a row has no path or no label.
    """
    text = read_text(path, path)
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    path_column, label_column = 0, 1
    rows: list[_Row] = []
    try:
        for number, cells in enumerate(reader):
            cells = [cell.strip() for cell in cells]
            header = [cell.lower() for cell in cells]
            if number == 0 and {"path", "label"} <= set(header):
                path_column, label_column = header.index("path"), header.index("label")
            elif any(cells):
                row = _read_row(cells, path_column, label_column, multiclass)
                if row is None:
                    raise UserError(f"{path}, line {reader.line_num}: needs path,label")
                rows.append(_Row(_resolved(row[0], path), row[1], path, reader.line_num))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from error
    return rows


def _read_row(cells, path_column: int, label_column: int, multiclass: bool):
    """Returns (path, labels), or None if one is missing."""
    if len(cells) <= max(path_column, label_column) or not cells[path_column]:
        return None
    label = cells[label_column]
    if multiclass:
        labels = dict.fromkeys(name.strip() for name in label.split("|"))
        return cells[path_column], tuple(name for name in labels if name)
    return (cells[path_column], (label,)) if label else None


def _resolved(written: str, csv_path: str) -> str:
    """Returns a path from a CSV file; if it is relative, joins it to the file's folder."""
    if written.startswith("/") or "://" in written:
        return written
    return tf.io.gfile.join(csv_path.rpartition("/")[0], written)


def _part_of(rows: list[_Row], split: str, data_config, seed: int) -> list[_Row]:
    """Returns the rows of a split by the rule of `folder.py`, applied to each label separately."""
    groups: dict[str, dict[str, None]] = {}
    for row in rows:
        group = "" if data_config.multiclass else row.labels[0]
        groups.setdefault(group, {})[row.name()] = None
    held = {
        name
        for group, names in groups.items()
        for name in held_out(list(names), group, data_config.eval_fraction, seed)
    }
    return [row for row in rows if (row.name() in held) == (split != "train")]


def _warn_of_shared(train: list[_Row], own: list[_Row], split: str) -> None:
    if split != "train":
        shared = {row.path for row in train} & {row.path for row in own}
        if shared:
            logging.warning(
                "%s has %d images of train, such as %s", split, len(shared), min(shared)
            )


def _class_names(data_config, train: list[_Row]) -> tuple[str, ...]:
    """Returns the names of the classes.

    Raises: UserError if there are fewer than two.
    """
    if data_config.label_file is not None:
        return class_names_of(data_config)
    labels = {label for row in train for label in row.labels}
    if len(labels) < 2:
        raise UserError(
            f"{train[0].file if train else data_config.data_dir!r} has {len(labels)} different "
            "labels, a classifier needs 2; is the second column the label?"
        )
    are_numbers = all(label.isdecimal() for label in labels)
    return tuple(sorted(labels, key=int if are_numbers else str))


def _numbers(rows: list[_Row], names: Sequence[str], label_file: str | None) -> list[list[int]]:
    """Returns the labels of each row as numbers.

    Raises: UserError for a label that is not a class, or that names several.
    """
    index = {name: number for number, name in enumerate(names)}
    doubled = {name for name, count in collections.Counter(names).items() if count > 1}

    def number_of(label: str, row: _Row) -> int:
        if label in doubled:
            raise UserError(f"{row.place()}: {label!r} names several classes; write its number")
        if label in index:
            return index[label]
        if label_file is not None and label.isdecimal() and int(label) < len(names):
            return int(label)
        known = f"data.label_file={label_file}" if label_file else "train"
        hint = nearest(label, names) if len(names) <= _MOST_HINTS else ""
        raise UserError(f"{row.place()}: {label!r} is no class of {known}{hint}")

    return [[number_of(label, row) for label in row.labels] for row in rows]


def _check_existence(rows: list[_Row]) -> None:
    """Raises UserError naming the first row whose image is missing."""
    listed: dict[str, set[str]] = {}
    for row in rows:
        folder, _, name = row.path.rpartition("/")
        if folder not in listed:
            try:
                listed[folder] = set(tf.io.gfile.listdir(folder or "."))
            except tf.errors.OpError:
                listed[folder] = set()
        if name not in listed[folder]:
            raise UserError(f"{row.place()}: there is no file {row.path}; mend the path")
