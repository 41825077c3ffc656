"""Which devices a run uses."""

import functools
import json
import os
import sys

import tensorflow as tf

from hparams import UserError, nearest

STRATEGIES = ("auto", "one", "mirrored", "gpus", "multiworker", "tpu")
EXAMPLE = (
    '{"cluster": {"worker": ["HOST1:PORT", "HOST2:PORT"]}, "task": {"type": "worker", "index": 0}}'
)


def make_strategy(name: str = "auto", tpu: str | None = None) -> tf.distribute.Strategy:
    """Returns the strategy to build and train a model under; call it before any operation.

    `auto`: all GPUs if there are several, else one device; `one`: one device, no strategy;
    `mirrored` (officially `gpus`): MirroredStrategy over all GPUs, or over the CPU; `multiworker`:
    MultiWorkerMirroredStrategy over the processes that the variable TF_CONFIG lists, each of which
    calls this, and waits for the others; `tpu`: TPUStrategy on the TPU that `tpu` names, or the
    local one.

    Raises: UserError for an unknown name, a TPU that cannot be reached, or a TF_CONFIG that is
    missing, wrong, or names a port that is taken.
    """
    if name not in STRATEGIES:
        raise UserError(f"unknown strategy {name!r}{nearest(name, STRATEGIES)}")
    if name == "tpu":
        return _tpu_strategy(tpu)
    if name == "multiworker":
        return _multi_worker_strategy()
    gpus = tf.config.list_logical_devices("GPU")
    if name in ("mirrored", "gpus") or (name == "auto" and len(gpus) > 1):
        devices = gpus or tf.config.list_logical_devices("CPU")
        return _mirrored_strategy(*(device.name for device in devices))
    return tf.distribute.get_strategy()


@functools.cache  # Two of one process would mix up their collective operations.
def _mirrored_strategy(*devices: str) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(devices)


def _tpu_strategy(tpu: str | None) -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu or "")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no TPU found for --tpu={tpu}: {reason}; use --strategy=auto") from error
    return tf.distribute.TPUStrategy(resolver)


def _multi_worker_strategy() -> tf.distribute.Strategy:
    cluster, job, index = read_tf_config(os.environ.get("TF_CONFIG", ""))
    address, count = cluster[job][index], sum(map(len, cluster.values()))
    line = f"{job} {index} of {count} workers, at {address}; waiting for all"
    print(line, file=sys.stderr, flush=True)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        reason = " ".join((error.message or str(error)).split())[:200]
        raise UserError(
            f"{job} {index} of TF_CONFIG cannot work at {address}: {reason}; "
            "its port must be free, and all workers started"
        ) from error


def read_tf_config(text: str) -> tuple[dict[str, list[str]], str, int]:
    """Returns the cluster, {job: addresses}, and the job and index of this process in it.

    Workers are of the job "worker"; the first may be of the job "chief".
    Raises: UserError if `text`, what the variable TF_CONFIG holds, says something else.
    Source: TensorFlow's format, of `tf.distribute.cluster_resolver.TFConfigClusterResolver`.
    """
    if not text:
        raise _wrong("is not set")
    try:
        config = json.loads(text)
    except ValueError as error:
        raise _wrong(f"is no JSON ({error})") from error
    cluster = config.get("cluster") if isinstance(config, dict) else None
    if not isinstance(cluster, dict) or not cluster.get("worker", cluster.get("chief")):
        raise _wrong("names no workers in its cluster")
    for job, addresses in cluster.items():
        if job not in ("chief", "worker"):
            raise _wrong(f"has the job {job!r}; there are only chief and worker")
        if not isinstance(addresses, list) or not all(map(_is_address, addresses)):
            raise _wrong(f"must list the HOST:PORT of each {job}")
    if len(cluster.get("chief", ())) > 1:
        raise _wrong("has several chiefs; leave one")
    every = [address for addresses in cluster.values() for address in addresses]
    if len(set(every)) < len(every):
        raise _wrong("names an address twice")
    return cluster, *_task(config.get("task"), cluster)


def _task(task, cluster: dict[str, list[str]]) -> tuple[str, int]:
    if not isinstance(task, dict) or task.get("type") not in cluster:
        raise _wrong(f"must say in its task which type this process is: {' or '.join(cluster)}")
    job, index = task["type"], str(task.get("index"))
    if not index.isdecimal() or int(index) >= len(cluster[job]):
        raise _wrong(f"has no {job} {index}: indices go from 0 to {len(cluster[job]) - 1}")
    return job, int(index)


def _is_address(text) -> bool:
    return isinstance(text, str) and text.rpartition(":")[2].isdecimal() and text[0] != ":"


def _wrong(what: str) -> UserError:
    return UserError(f"--strategy=multiworker: TF_CONFIG {what}; an example: {EXAMPLE}")
