"""Mode verify: proof that an export is whole and answers as the network that it was made of."""

import itertools
import os
import shlex

from absl import flags

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import atomic_write
from efficientnetv2.common.tf_import import import_tensorflow
from modes.common import make_output_dir, needed, report
from modes.trained import trained

FLAGS = flags.FLAGS
_WIDTH = 26


def verify() -> None:
    """Checks --export_dir, prints a table, and how to ask TensorFlow Serving about an image.

    With --model_dir or --weights, also against that network. Writes request.json to --output_dir.

    Raises: UserError naming the first check that failed; later ones are not made.
    """
    needed("export_dir")
    run = trained() if FLAGS.model_dir or FLAGS.weights else None
    import_tensorflow()
    from efficientnetv2.export.verify import latencies, prove
    from efficientnetv2.export.versions import find_version

    path = find_version(FLAGS.export_dir)
    print(f"{path}\n{'check':{_WIDTH}}result", flush=True)
    checks = {}
    for check in itertools.chain(prove(path), _parity(path, run) if run else ()):
        _show(check.name, check.result if check.passed else f"FAILED: {check.result}")
        if not check.passed:
            raise UserError(f"{path}: {check.name}: {check.result}")
        checks[check.name] = check.result
    measured = latencies(path)
    for name, row in measured.items():
        text = f"p50 {row['p50_ms']} ms, p99 {row['p99_ms']} ms of {row['calls']} calls"
        _show(name, text)
    print(f"ask TensorFlow Serving, where it serves this:\n{_curl(path)}")
    report({"verified": path, "checks": checks, "latency": measured})


def _show(name: str, text: str) -> None:
    print(f"{name:{_WIDTH}}{text}", flush=True)


def _parity(path: str, run):
    """Yields the check that the export answers as a network."""
    from efficientnetv2.export.card import read_card, weights_sha256
    from efficientnetv2.export.compare import ExportMismatch
    from efficientnetv2.export.saved_model import compare_with_model
    from efficientnetv2.export.verify import Check

    source = FLAGS.model_dir or FLAGS.weights
    try:
        difference = compare_with_model(path, run.model, run.config)
    except ExportMismatch as error:
        yield Check("parity", False, f"with {source}: {error}")
        return
    same = read_card(path)["weights"].get("sha256") == weights_sha256(run.model)
    text = "the same weights" if same else "not the same weights"
    yield Check("parity", True, f"{text} as {source}, scores but for {difference:.1e}")


def _curl(path: str) -> str:
    """A command that asks a server; the image is in a file if there is an --output_dir."""
    from efficientnetv2.export.compare import sample_images
    from efficientnetv2.export.verify import rest_request, rest_url, tiny_image

    if FLAGS.output_dir:
        file = os.path.join(FLAGS.output_dir, "request.json")
        make_output_dir(FLAGS.output_dir)
        atomic_write(file, rest_request(sample_images()[0]))
        body = f"@{file}"
    else:
        body = rest_request(tiny_image())
    return f"curl -d {shlex.quote(body)} {shlex.quote(rest_url(path))}"
