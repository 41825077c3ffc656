"""Mode preview: sheets that show what the pipeline does to the user's own images."""

import functools
import sys

from absl import flags

from efficientnetv2 import hparams
from efficientnetv2.common.tf_import import import_tensorflow
from modes.common import configured, named_decoding_errors, needed, report

FLAGS = flags.FLAGS
_IMAGES = 8
_LARGE, _SMALL = 288, 112  # pixels: how large the pictures of a sheet are


def preview() -> None:
    """Writes PNG sheets of the first images of the first epoch to --output_dir."""
    needed("output_dir")
    config = configured()
    import_tensorflow()
    import tensorflow as tf
    from tqdm import tqdm

    from efficientnetv2 import datasets
    from efficientnetv2.common.files import make_folder
    from efficientnetv2.datasets.augment.keras_cv import parse_extra_augment
    from efficientnetv2.datasets.augment.policies import OP_SETS
    from efficientnetv2.datasets.tools import preview as previews
    from efficientnetv2.datasets.tools.sheets import save_sheet

    source = datasets.open_source(config.data, "train", config.train.seed)
    config = datasets.with_source_facts(config, {"train": source})
    # Strengths do not depend on the batch; a small data set is to be looked at before it is tuned.
    batch = min(config.train.batch_size, source.num_examples)
    stages = hparams.make_stages(hparams.with_values(config, train__batch_size=batch))
    if config.data.extra_augment:
        parse_extra_augment(config.data.extra_augment)  # Raises before anything is drawn.
    make_folder(FLAGS.output_dir)
    config = hparams.with_values(config, runtime__data_service=None)  # A few images need none.
    few = previews.chosen(config, source, _IMAGES)
    size = config.train_size
    bar = functools.partial(tqdm, desc="keras_cv", unit="layers", file=sys.stderr)
    sheets = {
        "stages": (lambda: previews.stage_sheet(config, stages, few), _LARGE),
        "evaluation": (lambda: previews.evaluation_sheet(config, few), _LARGE),
    }
    for op_set in OP_SETS:
        sheet = functools.partial(previews.op_sheet, config, size, op_set, few)
        sheets[f"ops_{op_set}"] = (sheet, _SMALL)
    sheets["keras_cv"] = (lambda: previews.gallery_sheet(config, size, few, bar), _SMALL)

    files = []
    with named_decoding_errors([few], config.data):
        for name, (sheet, cell_size) in sheets.items():
            path = tf.io.gfile.join(FLAGS.output_dir, f"{name}.png")
            print(f"drawing {path}", file=sys.stderr, flush=True)
            save_sheet(sheet(), path, cell_size=cell_size)
            print(f"sheet  {path}", flush=True)
            files.append(path)
    report({"files": files, "images": few.num_examples, "stages": len(stages)})
