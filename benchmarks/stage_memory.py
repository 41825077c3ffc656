"""Memory of a run from stage to stage, which must not grow.

    python -m benchmarks.stage_memory --stages=12 --sizes=constant

Trains a tiny network for that many stages and prints the resident memory after each, in MiB, and
the ratio of the last to the second, when all one-time allocations have been made.
"""

import argparse
import ctypes
import gc
import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from efficientnetv2 import Blocks, ModelSpec, build_model, hparams
from efficientnetv2.training.callbacks import Callback
from efficientnetv2.training.trainer import Trainer

CLASSES, BATCH, STEPS = 10, 16, 4
SPEC = ModelSpec(
    "tiny", tuple(Blocks("mbconv", 2, 3, 2, 4, 16, 16, se_ratio=0.25) for _ in range(3))
)
SIZES = {"growing": "data.ibase=32", "constant": "data.ibase=128"}


def resident() -> float:
    """Returns the memory of this process in MiB, after returning free memory to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def make_batches(stage: hparams.Stage, first_step: int) -> tf.data.Dataset:
    size = stage.image_size
    batch = (
        {"image": tf.zeros([stage.batch_size, size, size, 3], tf.uint8)},
        {"label": tf.one_hot(tf.range(stage.batch_size) % CLASSES, CLASSES)},
    )
    return tf.data.Dataset.from_tensors(batch).repeat(stage.end_step - first_step)


def make_examples() -> tf.data.Dataset:
    example = ({"image": tf.zeros([128, 128, 3], tf.uint8)}, {"label": tf.one_hot(1, CLASSES)})
    return tf.data.Dataset.from_tensors(example).repeat(32)


class Memory(Callback):
    """Prints the resident memory after each stage's evaluation."""

    def __init__(self):
        self.after = []

    def on_evaluate(self, step, stage, scores, confusion):
        self.after.append(resident())
        print(f"stage {stage.index + 1:3}  {stage.image_size:3} px  {self.after[-1]:8.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", type=int, default=12)
    parser.add_argument("--sizes", choices=SIZES, default="constant")
    given = parser.parse_args()
    config = hparams.get_config(
        "efficientnetv2-b0",
        "shapes",
        f"train.batch_size={BATCH},train.epochs={given.stages},train.stages={given.stages},"
        f"data.splits.train.num_images={BATCH * STEPS},train.isize=128,eval.isize=128,"
        f"eval.batch_size=16,runtime.keep_checkpoint_max=1,{SIZES[given.sizes]}",
    )
    memory = Memory()
    with tempfile.TemporaryDirectory() as directory:
        trainer = Trainer(
            config,
            hparams.make_stages(config),
            directory,
            tf.distribute.get_strategy(),
            model=lambda: build_model(SPEC, num_classes=CLASSES),
            callbacks=[memory],
        )
        trainer.train(make_batches, make_examples)
    first, last = memory.after[1], memory.after[-1]
    per_stage = (last - first) / (len(memory.after) - 2)
    print(
        f"TensorFlow {tf.__version__}: {last / first:.3f} times the memory after stage 2, "
        f"{per_stage:+.1f} MiB a stage"
    )


if __name__ == "__main__":
    main()
