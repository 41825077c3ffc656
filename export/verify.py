"""Verification of an export: checksums, signatures, warm-up, stored scores, latency."""

import base64
import itertools
import json
import os
import shlex
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from efficientnetv2.common.console import show, verbosity
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import as_path, atomic_write, make_folder
from efficientnetv2.common.text import one_line
from efficientnetv2.export.card import (
    expected_signatures,
    file_digests,
    first_difference,
    read_card,
    signatures_of,
    weights_sha256,
)
from efficientnetv2.export.compare import (
    MAX_DIFFERENCE,
    ExportMismatch,
    read_expected,
    sample_images,
    score_difference,
)
from efficientnetv2.export.saved_model import WARMUP_BATCHES, compare_with_model, read_warmup
from efficientnetv2.export.versions import find_version
from efficientnetv2.training.load_trained import Trained, as_trained

LATENCY_BATCHES = (1, 8)
_WIDTH = 26  # Characters of the name column in the table.
_SECONDS, _LEAST, _MOST = 1.0, 5, 200  # Time and number of calls per signature and batch size.


class Check(NamedTuple):
    """A verification check: its name, whether it passed, and a readable result."""

    name: str
    passed: bool
    result: str


def verify(
    export_dir: str | os.PathLike,
    run: str | os.PathLike | Trained | None = None,
    *,
    output_dir: str | os.PathLike | None = None,
    verbose: bool = False,
) -> dict:
    """Verifies an export on any machine: checksums, signatures, warm-up, stored scores, latency.

    Args:
        export_dir: a SavedModel written by `export`, or the folder of its versions, of which the
            newest is verified.
        run: a network to compare the export with: the directory of a run, or the result of
            `load_run` or `load_pretrained`; None: no comparison.
        output_dir: folder for request.json, a request for TensorFlow Serving.
        verbose: print a table, and a command that queries TensorFlow Serving.

    Returns: {"verified": path, "checks": {name: result}, "latency": {call: {"p50_ms", …}}}.

    Raises: UserError naming the first check that failed; later checks are skipped.

    Example:
        effnet.verify("serving/photos", "runs/photos")["latency"]
    """
    with verbosity(verbose):
        run = as_trained(run) if run is not None else None
        path = find_version(as_path(export_dir, "export_dir"))
        show(f"{path}\n{'check':{_WIDTH}}result")
        checks = {}
        for check in itertools.chain(prove(path), _parity(path, run) if run else ()):
            result = check.result if check.passed else f"FAILED: {check.result}"
            show(f"{check.name:{_WIDTH}}{result}")
            if not check.passed:
                raise UserError(f"{path}: {check.name}: {check.result}")
            checks[check.name] = check.result
        measured = latencies(path)
        for name, row in measured.items():
            text = f"p50 {row['p50_ms']} ms, p99 {row['p99_ms']} ms of {row['calls']} calls"
            show(f"{name:{_WIDTH}}{text}")
        show(f"query TensorFlow Serving, where it serves this:\n{_curl(path, output_dir)}")
        return {"verified": path, "checks": checks, "latency": measured}


def _parity(path: str, run: Trained) -> Iterator[Check]:
    """Yields the check that the export reproduces the scores of a network."""
    source = run.model_dir or run.loaded.source
    try:
        difference = compare_with_model(path, run.model, run.config)
    except ExportMismatch as error:
        yield Check("parity", False, f"with {source}: {error}")
        return
    same = read_card(path)["weights"].get("sha256") == weights_sha256(run.model)
    text = "the same weights" if same else "not the same weights"
    yield Check("parity", True, f"{text} as {source}, largest difference {difference:.1e}")


def _curl(path: str, output_dir: str | None) -> str:
    """Returns a command that queries a server; with `output_dir`, the image is in a file."""
    if output_dir:
        output_dir = as_path(output_dir, "output_dir")
        file = os.path.join(output_dir, "request.json")
        make_folder(output_dir)
        atomic_write(file, rest_request(sample_images()[0]))
        body = f"@{file}"
    else:
        body = rest_request(tiny_image())
    return f"curl -d {shlex.quote(body)} {shlex.quote(rest_url(path))}"


def prove(path: str) -> Iterator[Check]:
    """Yields a check of each part of an exported version; stops after the first failure.

    The checks are the checksums of the files, the expected signatures, a replay of the warm-up
    requests, and the stored scores, which the export must reproduce within 1e-4.
    """
    card = loaded = None
    for name, check in _CHECKS.items():
        try:
            card = card or read_card(path)
            if name != "files":  # Never load files that differ from the exported ones.
                loaded = loaded or tf.saved_model.load(path)
            yield Check(name, True, check(path, card, loaded))
        except (UserError, ValueError, KeyError, TypeError, OSError, tf.errors.OpError) as error:
            yield Check(name, False, one_line(error, 1000))
            return


def _files(path: str, card: dict, _) -> str:
    found, expected = file_digests(path), card["files"]
    faults = [f"{name} is missing" for name in expected if name not in found]
    faults += [f"{name} is additional" for name in found if name not in expected]
    faults += [f"{n} has changed" for n in expected if n in found and found[n] != expected[n]]
    if faults:
        raise UserError(", ".join(faults))
    megabytes = sum(file["bytes"] for file in found.values()) / 1e6
    return f"{len(found)}, {megabytes:.1f} MB, as their checksums say"


def _signatures(path: str, card: dict, loaded) -> str:
    found = signatures_of(loaded)
    features = card["signatures"]["predict_features"]["outputs"]["features"]["shape"][-1]
    labelled = os.path.getsize(os.path.join(path, "assets", "labels.txt")) > 0
    size = card["preprocessing"]["image_size"]
    expected = expected_signatures(size, card["num_classes"], labelled, features)
    fault = first_difference(found, expected) or first_difference(card["signatures"], expected)
    if fault:
        raise UserError(fault)
    return ", ".join(found)


def _warmup(path: str, card: dict, loaded) -> str:
    replayed = []
    for signature, inputs in read_warmup(path):
        scores = loaded.signatures[signature](**inputs)["scores"].numpy()
        batch = len(next(iter(inputs.values())))
        if scores.shape != (batch, card["num_classes"]) or not np.isfinite(scores).all():
            raise UserError(f"scores of {scores.shape} for {batch} images from {signature}")
        if card["activation"] == "softmax" and np.abs(scores.sum(-1) - 1).max() > 1e-3:
            raise UserError(f"the scores of an image from {signature} add up to {scores.sum(-1)}")
        replayed.append(f"{signature} {batch}")
    expected = {f"{s} {n}" for s in ("serving_default", "predict_images") for n in WARMUP_BATCHES}
    if set(replayed) != expected:
        raise UserError(f"requests are {', '.join(replayed) or 'none'}, not {sorted(expected)}")
    return f"{len(replayed)} requests replayed"


def _scores(path: str, card: dict, loaded) -> str:
    difference = score_difference(loaded, read_expected(path))
    if not difference <= MAX_DIFFERENCE:
        raise UserError(
            f"differ from those of the exported network by {difference:.1e}, at most "
            f"{MAX_DIFFERENCE:.0e} is allowed"
        )
    return f"match the exported network (largest difference {difference:.1e})"


_CHECKS: dict[str, Callable[[str, dict, object], str]] = {
    "files": _files,
    "signatures": _signatures,
    "warm-up": _warmup,
    "scores": _scores,
}


def latencies(path: str) -> dict[str, dict]:
    """Measures an export's latency: {"serving_default, batch 1": {"p50_ms", "p99_ms", "calls"}, …}.

    Runs in this process, after one warm-up call that is not counted; takes a few seconds.
    """
    loaded, measured = tf.saved_model.load(path), {}
    size = read_card(path)["preprocessing"]["image_size"]
    images = (np.arange(size * size * 3) % 256).reshape(1, size, size, 3).astype(np.uint8)
    questions = {
        "serving_default": ("image_bytes", np.array(sample_images()[:1], object)),
        "predict_images": ("images", images),
    }
    for signature, (name, one) in questions.items():
        for batch in LATENCY_BATCHES:
            inputs = {name: tf.constant(np.repeat(one, batch, axis=0))}
            times = _times(lambda f=loaded.signatures[signature], i=inputs: f(**i)["scores"])
            p50, p99 = np.percentile(times, [50, 99]) * 1000
            measured[f"{signature}, batch {batch}"] = {
                "p50_ms": round(float(p50), 2),
                "p99_ms": round(float(p99), 2),
                "calls": len(times),
            }
    return measured


def _times(call: Callable) -> list[float]:
    """Returns the seconds of each call, after one warm-up call."""
    call().numpy()
    times, end = [], time.monotonic() + _SECONDS
    while len(times) < _LEAST or (time.monotonic() < end and len(times) < _MOST):
        start = time.perf_counter()
        call().numpy()
        times.append(time.perf_counter() - start)
    return times


def rest_url(path: str) -> str:
    """Returns TensorFlow Serving's default URL for the export `MODEL/VERSION`."""
    base, version = os.path.split(os.path.abspath(path))
    model = os.path.basename(base)
    return f"http://localhost:8501/v1/models/{model}/versions/{version}:predict"


def rest_request(image: bytes) -> str:
    """Returns the body of a REST request for one image, in TensorFlow Serving's row format."""
    return json.dumps({"instances": [{"b64": base64.b64encode(image).decode()}]})


def tiny_image() -> bytes:
    """Returns a JPEG of 16 x 16 pixels, short enough for a command line."""
    ramp = np.linspace(0, 255, 16).astype(np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp, np.uint8(128)), axis=-1)
    return tf.io.encode_jpeg(pixels, quality=50, optimize_size=True).numpy()
