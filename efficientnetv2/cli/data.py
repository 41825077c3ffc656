"""Modes check_data, prepare and preview."""

import sys
import time

from absl import flags

from efficientnetv2.cli.common import config_from_flags, print_result, require_flag
from efficientnetv2.common.tf_import import import_tensorflow

FLAGS = flags.FLAGS


def check_data() -> None:
    """Prints a table of the problems in the data; exits with status 1 if any is an error.

    With --output_dir, writes all of them, not only the first of each kind, to `check_data.json`.
    """
    config = config_from_flags()
    import_tensorflow()
    from efficientnetv2.datasets.tools import check

    result = check.check_data(config, output_dir=FLAGS.output_dir, verbose=True)
    print_result(result.summary())
    if result.errors:
        sys.exit(1)


def prepare() -> None:
    """Writes the records of --dataset_cfg, or the missing ones, to --output_dir."""
    require_flag("output_dir")
    config = config_from_flags()
    import_tensorflow()
    from efficientnetv2.datasets.tools.prepare import prepare_data

    start = time.monotonic()
    short_side = FLAGS.short_side
    prepared = prepare_data(config, FLAGS.output_dir, short_side=short_side, verbose=True)
    splits = {
        name: {
            "examples": split.num_examples,
            "skipped": len(prepared.left_out[name]),
            "shards": len(split.shards),
            "bytes": sum(shard.bytes for shard in split.shards),
        }
        for name, split in prepared.manifest.splits.items()
    }
    for name, split in splits.items():
        print(
            f"{name:8}{split['examples']:>10} examples {split['skipped']:>6} skipped "
            f"{split['shards']:>6} shards {split['bytes'] / 2**20:>10.1f} MiB"
        )
    print_result(
        {
            "prepared": FLAGS.output_dir,
            "splits": splits,
            "shards_written": prepared.shards_written,
            "shards_kept": prepared.shards_kept,
            "seconds": round(time.monotonic() - start, 1),
        }
    )


def preview() -> None:
    """Writes PNG sheets of the first images of the first epoch to --output_dir."""
    require_flag("output_dir")
    config = config_from_flags()
    import_tensorflow()
    from efficientnetv2.datasets.tools.preview import preview as draw_preview

    print_result(draw_preview(config, FLAGS.output_dir, verbose=True))
