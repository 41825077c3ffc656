"""Writes the formats beside a SavedModel, and compares each with the network it is of."""

import dataclasses
import functools
import os
from collections.abc import Sequence

import keras
from tensorflow.core.framework.graph_pb2 import GraphDef

from export.formats import FORMATS, find_format
from export.parity import check, compare
from export.real_images import CALIBRATION, from_split, to_compare
from export.samples import scores_of_model
from hparams import Config, UserError

SAVED_MODEL = "saved_model"


def check_formats(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the formats beside the SavedModel, each once.

    Raises: UserError for a name that is not known, or a package that is not installed.
    """
    for name in names:
        if name != SAVED_MODEL and name not in FORMATS:
            known = ", ".join((SAVED_MODEL, *FORMATS))
            raise UserError(f"unknown --export_format={name!r}; known are {known}")
    others = tuple(dict.fromkeys(name for name in names if name != SAVED_MODEL))
    for name in others:
        find_format(name).check_installed()
    return others


def write_formats(
    names: Sequence[str], graph_def: GraphDef, model: keras.Model, config: Config, folder: str
) -> dict[str, dict]:
    """Writes a file of each format; returns what the card says of each.

    That is the greatest difference of a score, the agreement and the accuracies, on examples of the
    `eval` split. 8-bit formats are calibrated on examples of `train`.

    Raises: UserError if examples are needed and the data set is not there; ExportMismatch if a
    format without rounding differs by more than 1e-4.
    """
    if not names:
        return {}
    of_model = functools.partial(scores_of_model, model, config)
    images, examples = to_compare(config), None
    print(f"formats are compared with the network on {images.origin}", flush=True)
    if any(find_format(name).needs_examples for name in names):
        examples = from_split(config, "train", CALIBRATION).pixels
    found = {}
    for name in names:
        row = find_format(name)
        path = row.write(graph_def, config.eval.isize, folder, examples=examples)
        parity = compare(row.load(folder), of_model, images.pixels, images.labels)
        warnings = check(parity, name, quantised=row.quantised)
        megabytes = os.path.getsize(path) / 1e6
        print(f"{name:12} {row.file_name} {megabytes:.1f} MB: {parity}", flush=True)
        for line in warnings:
            print(f"  warning: {line}", flush=True)
        found[name] = {
            "file": row.file_name,
            "compared_on": images.origin,
            **dataclasses.asdict(parity),
            "warnings": warnings,
        }
    return found
