"""Which devices a run uses."""

import tensorflow as tf

from hparams import UserError, nearest

STRATEGIES = ("auto", "one", "mirrored", "gpus", "tpu")


def make_strategy(name: str = "auto", tpu: str | None = None) -> tf.distribute.Strategy:
    """Returns the strategy to build and train a model under.

    `auto`: all GPUs if there are several, else one device; `one`: one device, no strategy;
    `mirrored` (officially `gpus`): MirroredStrategy over all GPUs, or over the CPU; `tpu`:
    TPUStrategy on the TPU that `tpu` names, or the local one.

    Raises: UserError for an unknown name, or a TPU that cannot be reached.
    """
    if name not in STRATEGIES:
        raise UserError(f"unknown strategy {name!r}{nearest(name, STRATEGIES)}")
    gpus = tf.config.list_logical_devices("GPU")
    if name == "tpu":
        return _tpu_strategy(tpu)
    if name in ("mirrored", "gpus") or (name == "auto" and len(gpus) > 1):
        devices = gpus or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def _tpu_strategy(tpu: str | None) -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu or "")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no TPU found for --tpu={tpu}: {reason}; use --strategy=auto") from error
    return tf.distribute.TPUStrategy(resolver)
