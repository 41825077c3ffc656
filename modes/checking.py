"""Mode check_data: what is wrong with the data, before a run."""

import json
import os
import sys

from absl import flags

from efficientnetv2.common.tf_import import import_tensorflow
from modes.common import configured, report

FLAGS = flags.FLAGS
FILE_NAME = "check_data.json"


def check_data() -> None:
    """Prints a table of what was found; exit status 1 if there is an error in it.

    With --output_dir it writes all of it, not only the first of each kind, to `check_data.json`.
    """
    config = configured()
    import_tensorflow()
    import tensorflow as tf
    from tqdm import tqdm

    from efficientnetv2.common.files import make_folder, write_text
    from efficientnetv2.datasets.tools.check import check_splits, count_kinds, findings_table

    bars = []

    def close_bars() -> None:
        for bar in bars:
            bar.close()

    with os.fdopen(os.dup(2), "w") as screen:  # `check_splits` keeps stderr itself back.

        def progress(split: str, count: int):
            close_bars()
            bars.append(tqdm(total=count, desc=split, unit="images", file=screen))
            return bars[-1].update

        try:
            check = check_splits(config.data, config.train.seed, progress)
        finally:
            close_bars()
    print(findings_table(check.findings))
    for split, counts in check.class_counts.items():
        print(f"{split}: {check.examples[split]} examples, {_spread(counts)}")
    errors = sum(finding.is_error for finding in check.findings)
    values = {
        "errors": errors,
        "notes": len(check.findings) - errors,
        "examples": check.examples,
        "kinds": count_kinds(check.findings),
    }
    if FLAGS.output_dir:
        make_folder(FLAGS.output_dir)
        found = [finding._asdict() for finding in check.findings]
        content = {**values, "class_counts": check.class_counts, "findings": found}
        write_text(tf.io.gfile.join(FLAGS.output_dir, FILE_NAME), json.dumps(content))
    report(values)
    if errors:
        sys.exit(1)


def _spread(counts: dict[str, int]) -> str:
    largest, smallest = max(counts, key=counts.get), min(counts, key=counts.get)
    return (
        f"{len(counts)} classes of {counts[smallest]} ({smallest}) to {counts[largest]} ({largest})"
    )
