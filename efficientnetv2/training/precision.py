"""How a step's arithmetic runs: the type of activations, the scale of the loss, and XLA."""

import contextlib

import keras
import tensorflow as tf

from hparams import Config

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@contextlib.contextmanager
def policy_scope(precision: str):
    """Inside, layers are built to compute in `train.precision`.

    Weights, BatchNorm's statistics, logits and loss are float32 with any.
    """
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(_POLICIES[precision])
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


class LossScale:
    """What the loss is multiplied by, so that float16 can hold its gradients.

    It halves when gradients are not finite and doubles after 2000 steps in which they were.
    Create it under the scope of the strategy.
    Source: arXiv 1710.03740; start and period of Keras' LossScaleOptimizer.
    """

    START, LEAST, MOST, PERIOD = 2.0**15, 1.0, 2.0**24, 2000

    def __init__(self):
        shared = {"trainable": False, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
        self.scale = tf.Variable(self.START, **shared)
        self.finite_steps = tf.Variable(0, dtype=tf.int64, **shared)

    @property
    def variables(self) -> dict[str, tf.Variable]:
        return {"loss_scale/scale": self.scale, "loss_scale/finite_steps": self.finite_steps}

    def update(self, finite: tf.Tensor) -> None:
        """After a step, outside of the replicas. `finite`: bool scalar."""
        steps = self.finite_steps + 1
        grows = steps >= self.PERIOD
        grown = tf.where(grows, tf.minimum(self.scale * 2, self.MOST), self.scale)
        self.scale.assign(tf.where(finite, grown, tf.maximum(self.scale / 2, self.LEAST)))
        self.finite_steps.assign(tf.where(finite & ~grows, steps, 0))


def effective_jit(config: Config, strategy: tf.distribute.Strategy) -> bool:
    """Whether XLA compiles the forward and backward pass of a run's steps."""
    asked = config.train.jit_compile
    return default_jit(strategy) if asked is None else asked


def default_jit(strategy: tf.distribute.Strategy) -> bool:
    """What `train.jit_compile` null means: XLA on one GPU.

    Not on a CPU, where compiling takes longer; not over several replicas, whose BatchNorm cannot
    be compiled; not on a TPU, which compiles by itself. That it is faster on a GPU is what others
    measured, not we.
    """
    return strategy.num_replicas_in_sync == 1 and bool(tf.config.list_logical_devices("GPU"))
