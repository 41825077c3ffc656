"""Mode prepare: a data set as sharded TFRecords, for training to read fast."""

import time

from absl import flags

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.tf_import import import_tensorflow
from modes.common import configured, needed, report

FLAGS = flags.FLAGS


def prepare() -> None:
    """Writes the records of --dataset_cfg to --output_dir, or what is missing of them."""
    needed("output_dir")
    if FLAGS.short_side is not None and FLAGS.short_side < 1:
        raise UserError(f"--short_side must be 1 pixel or more, got {FLAGS.short_side}")
    config = configured()
    import_tensorflow()
    from efficientnetv2.datasets.tools import prepare as preparation

    start = time.monotonic()
    prepared = preparation.prepare(
        config.data, FLAGS.output_dir, seed=config.train.seed, short_side=FLAGS.short_side
    )
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
    report(
        {
            "prepared": FLAGS.output_dir,
            "splits": splits,
            "shards_written": prepared.shards_written,
            "shards_kept": prepared.shards_kept,
            "seconds": round(time.monotonic() - start, 1),
        }
    )
