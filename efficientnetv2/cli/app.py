"""Flags, modes, and the entry point of the command line.

    efficientnetv2 --mode=traineval --model_name=efficientnetv2-s --dataset_cfg=folder \
        --data_dir=PHOTOS --model_dir=RUN --hparam_str=train.epochs=50,train.batch_size=64

`python -m efficientnetv2` and, in a checkout, `python main.py` are equivalent. To add a mode, add a
function without arguments to one of the modules here, which reads flags, calls the library and
prints the result, and a row to `MODES`.
"""

import os
import sys

from absl import app, flags, logging

from efficientnetv2.cli import analyze, data, search, serve, train
from efficientnetv2.common.console import verbosity
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.text import program
from efficientnetv2.hparams import nearest

MODES = {
    "train": train.train,
    "traineval": train.train,
    "eval": serve.evaluate,
    "infer": serve.infer,
    "export": serve.export,
    "verify": serve.verify,
    "profile": analyze.profile,
    "preview": data.preview,
    "check_data": data.check_data,
    "prepare": data.prepare,
    "report": analyze.report,
    "demo": serve.demo,
    "search": search.search,
    "scale": search.scale,
}

FLAGS = flags.FLAGS
flags.DEFINE_string("mode", "traineval", f"One of {', '.join(MODES)}.")
flags.DEFINE_string(
    "model_name",
    None,
    "Architecture: a name, keras/NAME or a JSON file; efficientnetv2-b0 if not given.",
)
flags.DEFINE_string(
    "dataset_cfg",
    None,
    "shapes (the default), folder, csv, tfrecord, tfds:NAME, imagenet, …; see docs/data.md.",
)
flags.DEFINE_string("hparam_str", "", "Overrides: a.b=c,… ; an item may be a .yaml file.")
flags.DEFINE_string("model_dir", None, "Directory of the run: checkpoints, config, metrics.")
flags.DEFINE_string(
    "weights",
    None,
    "Instead of --model_dir, for eval, infer, export, verify: imagenet, imagenet21k, "
    "imagenet21k-ft1k, jft, or a weights file.",
)
flags.DEFINE_string("labels", None, "With --weights: a file with a class name per line.")
flags.DEFINE_string("data_dir", None, "Directory of the images, or of TensorFlow Datasets.")
flags.DEFINE_string("strategy", "auto", "auto, one, mirrored (gpus), multiworker, tpu; see README.")
flags.DEFINE_string("tpu", None, "Name or address of the TPU, with --strategy=tpu.")
flags.DEFINE_bool("dry_run", False, "Print the stages of the run and exit.")
flags.DEFINE_bool("allow_changes", False, "Resume a run with settings that differ from its own.")
flags.DEFINE_enum("checkpoint", "last", ["last", "best"], "Of --model_dir, see eval.best_metric.")
flags.DEFINE_list("image_path", [], "Images or folders to infer, separated by commas.")
flags.DEFINE_list(
    "export_format",
    ["saved_model"],
    "Also of tflite, tflite_fp16, tflite_int8, onnx, openvino; the SavedModel is always written.",
)
flags.DEFINE_string(
    "export_dir", None, "Output directory of export; the export that infer and verify read."
)
flags.DEFINE_integer(
    "export_version", None, "Of the export; the next free one if not given.", lower_bound=1
)
flags.DEFINE_string(
    "output_dir", None, "Where profile, preview, prepare, check_data, report, verify, scale write."
)
flags.DEFINE_integer("short_side", None, "With prepare: reduce images to this short side (pixels).")
flags.DEFINE_integer("port", None, "Of the page of --mode=demo; a free one if not given.")
flags.DEFINE_float("scale_params", None, "With scale: the parameters to grow to, such as 54e6.")
flags.DEFINE_float("scale_step_ms", None, "With scale: the milliseconds of a training step.")
flags.DEFINE_string("search_space", None, "With search: paper, cifar, or a JSON file.")
flags.DEFINE_string(
    "search_budget",
    "40",
    "Trials of the study, or a time, 2h or 90m; 0 writes the results alone.",
)
flags.DEFINE_enum("search_sampler", "tpe", ["tpe", "random", "evolution"], "What proposes trials.")
flags.DEFINE_integer("search_seed", 0, "Of the sampler.", lower_bound=0)
flags.DEFINE_string(
    "search_storage",
    None,
    "URL of a database that workers share, postgresql://…; study.db in --model_dir if not given.",
)
flags.DEFINE_string("data_service", None, "grpc://HOST:PORT of a tf.data service to read through.")


def main(argv: list[str]) -> None:
    """Runs one mode; a UserError prints one line to stderr and exits with status 2."""
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    try:
        if len(argv) > 1:
            raise UserError(f"unexpected argument {argv[1]!r}; flags start with --")
        if FLAGS.mode not in MODES:
            raise UserError(f"unknown mode {FLAGS.mode!r}{nearest(FLAGS.mode, MODES)}")
        if FLAGS.dry_run and FLAGS.mode not in ("train", "traineval"):
            raise UserError(f"--dry_run plans a training run; drop it with --mode={FLAGS.mode}")
        if FLAGS.weights and MODES[FLAGS.mode] is train.train:
            raise UserError("--weights is for eval, infer and export; drop it to train")
        if FLAGS.labels and not FLAGS.weights:
            raise UserError("--labels names the classes of --weights; drop it")
        with verbosity(True):
            MODES[FLAGS.mode]()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; --help prints them and exits.

    An invalid flag prints one line to stderr and exits with status 2.
    """
    if {"--help", "-help", "-h", "--helpshort"} & set(argv[1:]):
        # absl's help shows the flags of the started file, which defines none.
        print(f"{' '.join(program())} --mode=MODE --FLAG=VALUE …\n")
        print(FLAGS.module_help(__name__))
        sys.exit(0)
    try:
        return FLAGS(argv)
    except flags.Error as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def run() -> None:
    """Runs the console command `efficientnetv2`."""
    _leave_checkout()
    app.run(main, flags_parser=parse_flags)


def _leave_checkout() -> None:
    """Removes a checkout's root from `sys.path`, where its datasets/ would shadow other packages.

    `python main.py` and `python -m efficientnetv2` put it first.
    """
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    is_checkout = os.path.isfile(os.path.join(root, "pyproject.toml"))
    if is_checkout and sys.path and os.path.abspath(sys.path[0]) == root:
        del sys.path[0]
