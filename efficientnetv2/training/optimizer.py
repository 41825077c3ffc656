"""Optimization: learning rates, precision, weight decay and selection of trained weights."""

import contextlib
import importlib.util
import math
import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams import Config, Stage, nearest, stage_at
from efficientnetv2.network.compat import (
    NADAM_WORKS,
    all_layers,
    apply_summed,
    build_optimizer,
    optimizer_variables,
    slot_index,
    tf_variable,
    var_path,
)

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def learning_rate_at(config: Config, stages: Sequence[Stage], step: int) -> float:
    """Returns the learning rate of one step.

    Units: steps, from 0; the base rate is for a batch of 256 and scales with the stage's batch.
    If stages have different batch sizes, the schedule counts steps of `train.batch_size` images.
    Source: official rule: the schedule counts from step 0, including the linear warm-up, which
    starts at exactly 0; `exponential` is a staircase; `lr_min` does not apply during warm-up.
    """
    train, stage, last = config.train, stage_at(stages, step), stages[-1]
    scale = stage.batch_size / 256
    base, floor = train.lr_base * scale, train.lr_min * scale
    steps_per_epoch = config.data.splits.train.num_images / train.batch_size
    warmup_steps = int(train.lr_warmup_epoch * steps_per_epoch)
    passed = stage.records_before(step) / train.batch_size
    if passed < warmup_steps:
        return base * passed / warmup_steps
    done = passed / (last.records_before(last.end_step) / train.batch_size)
    if train.lr_sched == "exponential":
        rate = base * train.lr_decay_factor ** (passed // (steps_per_epoch * train.lr_decay_epoch))
    elif train.lr_sched == "cosine":
        rate = base * 0.5 * (1 + math.cos(math.pi * done))
    elif train.lr_sched == "linear":
        rate = base * (1 - done)
    else:
        rate = base
    return max(rate, floor)


@contextlib.contextmanager
def policy_scope(precision: str):
    """Sets the compute precision of layers built inside the context, see `train.precision`.

    Weights, BatchNorm statistics, logits and loss are float32 at any precision.
    """
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(_POLICIES[precision])
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


class LossScale:
    """Dynamic factor of the loss that keeps gradients representable in float16.

    It is halved when gradients are not finite and doubled after 2000 steps in which they were.
    Create it under the scope of the strategy.
    Source: arXiv 1710.03740; initial value and period as in Keras' LossScaleOptimizer.
    """

    START, LEAST, MOST, PERIOD = 2.0**15, 1.0, 2.0**24, 2000

    def __init__(self):
        shared = {"trainable": False, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
        self.scale = tf.Variable(self.START, **shared)
        self.finite_steps = tf.Variable(0, dtype=tf.int64, **shared)

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """The state that a checkpoint holds, by name."""
        return {"loss_scale/scale": self.scale, "loss_scale/finite_steps": self.finite_steps}

    def update(self, finite: tf.Tensor) -> None:
        """Updates the scale after a step, outside the replicas. `finite`: bool scalar."""
        steps = self.finite_steps + 1
        grows = steps >= self.PERIOD
        grown = tf.where(grows, tf.minimum(self.scale * 2, self.MOST), self.scale)
        self.scale.assign(tf.where(finite, grown, tf.maximum(self.scale / 2, self.LEAST)))
        self.finite_steps.assign(tf.where(finite & ~grows, steps, 0))


def effective_jit(config: Config, strategy: tf.distribute.Strategy) -> bool:
    """Returns whether XLA compiles the forward and backward pass of a run's steps."""
    asked = config.train.jit_compile
    return default_jit(strategy) if asked is None else asked


def default_jit(strategy: tf.distribute.Strategy) -> bool:
    """Returns the value used for `train.jit_compile` null: XLA on one GPU.

    Not on a CPU, where compilation takes longer; not with several replicas, whose BatchNorm cannot
    be compiled; not on a TPU, which always compiles. The speedup on GPUs was measured by others,
    not by this project.
    """
    return strategy.num_replicas_in_sync == 1 and bool(tf.config.list_logical_devices("GPU"))


@keras.saving.register_keras_serializable("efficientnetv2")
class OfficialRMSprop(keras.optimizers.RMSprop):
    """RMSProp whose mean of squares starts at one, not at zero as in Keras.

    Starting at one keeps the first updates small; starting at zero makes each of them up to
    1 / sqrt(1 - rho) times the learning rate, regardless of the gradient.

    Source: official (TF1) RMSProp: decay 0.9, momentum 0.9, epsilon 0.001 inside the root.
    """

    def __init__(self, learning_rate=0.016, rho=0.9, momentum=0.9, epsilon=1e-3, **kwargs):
        # Keras 3 would number default names, and with them the keys of a checkpoint.
        kwargs.setdefault("name", "official_rm_sprop")
        super().__init__(learning_rate, rho=rho, momentum=momentum, epsilon=epsilon, **kwargs)

    def build(self, var_list):
        built_before = getattr(self, "_velocities", None)
        super().build(var_list)
        if not built_before:
            for mean_square in self._velocities:
                variable = tf_variable(mean_square)
                variable.assign(tf.ones_like(variable))

    def update_step(self, gradient, variable, *learning_rate):
        """Updates a weight with a single kernel, the one that the official code uses.

        Keras 3 passes the learning rate, Keras 2 does not.
        """
        if not self._momentums:  # With a momentum of 0 there are no slots.
            return super().update_step(gradient, variable, *learning_rate)
        index = slot_index(self, variable)
        tensors = {
            "rho": self.rho,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "lr": learning_rate[0] if learning_rate else self.learning_rate,
        }
        tf.raw_ops.ResourceApplyRMSProp(
            var=variable.handle,
            ms=tf_variable(self._velocities[index]).handle,
            mom=tf_variable(self._momentums[index]).handle,
            grad=tf.convert_to_tensor(gradient),
            use_locking=True,
            **{name: tf.cast(value, variable.dtype) for name, value in tensors.items()},
        )


class _Made(NamedTuple):
    """Definition of an optimizer, created from the first of these libraries that has it."""

    in_keras: str | None  # The class in keras.optimizers.
    in_addons: str | None = None  # The class in tensorflow_addons.optimizers.
    settings: dict = {}  # "momentum" stands for `train.momentum`.


# Weight decay is applied in this module, see `train.decoupled_weight_decay`, not by the optimizer.
_OPTIMIZERS = {
    "sgd": _Made("SGD"),
    "momentum": _Made("SGD", settings={"momentum": "momentum"}),
    "nesterov": _Made("SGD", settings={"momentum": "momentum", "nesterov": True}),
    "adam": _Made("Adam"),
    "adamw": _Made("Adam"),
    "adamax": _Made("Adamax"),
    "nadam": _Made("Nadam"),
    "adagrad": _Made("Adagrad"),
    "adadelta": _Made("Adadelta"),
    "adafactor": _Made("Adafactor"),
    "lion": _Made("Lion"),
    "lamb": _Made("Lamb", "LAMB"),
    "lazyadam": _Made(None, "LazyAdam"),
    "radam": _Made(None, "RectifiedAdam"),
    "novograd": _Made(None, "NovoGrad"),
    "yogi": _Made(None, "Yogi"),
    "adabelief": _Made(None, "AdaBelief"),
}
OPTIMIZERS = ("rmsprop", *_OPTIMIZERS)


def make_optimizer(name: str, momentum: float) -> keras.optimizers.Optimizer:
    """Returns a new optimizer with the default settings of its library, except for momentum.

    `momentum`: used by rmsprop, momentum and nesterov.
    Raises: UserError for an unknown name, or one that the installed stack lacks.
    Source: official names rmsprop, momentum, sgd and adam; the others are from Keras and
    tensorflow-addons.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"unknown train.optimizer={name}{nearest(name, OPTIMIZERS)}")
    if name == "rmsprop":
        return OfficialRMSprop(momentum=momentum)
    made = _OPTIMIZERS[name]
    settings = {k: momentum if v == "momentum" else v for k, v in made.settings.items()}
    # Keras 3 would number default names, and with them the keys of a checkpoint.
    return _class_of(name, made)(learning_rate=0.0, name=name, **settings)


def _class_of(name: str, made: _Made):
    if name == "nadam" and not NADAM_WORKS:
        raise UserError(
            "train.optimizer=nadam needs Keras 3 (Python 3.12 or later): that of Keras 2.15 counts "
            "a step once per weight; use train.optimizer=adam"
        )
    if made.in_keras and hasattr(keras.optimizers, made.in_keras):
        return getattr(keras.optimizers, made.in_keras)
    if made.in_addons and importlib.util.find_spec("tensorflow_addons"):
        with warnings.catch_warnings():
            message = r"\s*TensorFlow Addons \(TFA\) has ended development"
            warnings.filterwarnings("ignore", message, UserWarning)
            import tensorflow_addons
        return getattr(tensorflow_addons.optimizers, made.in_addons)
    raise UserError(
        f"train.optimizer={name} needs tensorflow-addons, which exists for TensorFlow 2.15 on "
        "Python 3.11 only; use train.optimizer=adam or another of Keras"
    )


class _Group(NamedTuple):
    """Weights that share a learning rate and an optimizer."""

    optimizer: keras.optimizers.Optimizer
    weights: list
    rate_factor: float
    in_head: bool


class Optimization:
    """The optimizers of a run and their state; freezes the weights that the config specifies.

    Create it under the scope of the strategy, after loading weights and before `WeightAverage`.
    Weights with the same learning rate share an optimizer: with `train.layer_lr_decay` d, those at
    depth k (see `head_depths`) are trained at exactly d**k times the rate, with any optimizer; with
    `train.head_warmup_epoch` the classifier has its own optimizer, so that the state of the others
    starts when their weights are first trained.
    Raises: UserError for an unknown optimizer, or settings that leave nothing to train.
    """

    def __init__(self, config: Config, model: keras.Model):
        train = self.train = config.train
        # All of them, trained or not, as in the official code.
        self.decayed = decayed_weights(model, train.weight_decay_exclude)
        self.decoupled = train.decoupled_weight_decay or train.optimizer == "adamw"
        self.groups = _make_groups(config, model, trained_weights(model, config))
        self.loss_scale = LossScale() if train.precision == "float16" else None
        if train.head_warmup_epoch and not self.weights(head_only=True):
            raise UserError(
                f"train.head_warmup_epoch={train.head_warmup_epoch} needs a classifier that "
                "learns; drop it, or do not freeze the classifier"
            )

    @property
    def optimizer(self) -> keras.optimizers.Optimizer:
        """The optimizer, or that of the first weights if there are several."""
        return self.groups[0].optimizer

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """All state variables, by keys that are the same in every process."""
        found = {}
        for number, group in enumerate(self.groups):
            prefix = f"group_{number}/" if len(self.groups) > 1 else ""
            for i, variable in enumerate(optimizer_variables(group.optimizer)):
                # Names numbered by Keras differ between processes.
                path = re.sub(r"^variable_\d+$", "variable", var_path(variable))
                found[f"{prefix}{i}/{path}"] = tf_variable(variable)
        return found | (self.loss_scale.variables if self.loss_scale else {})

    def weights(self, head_only: bool = False) -> list:
        """Returns the trained weights, in the order of the gradients that `apply` takes."""
        return [w for group in self._groups(head_only) for w in group.weights]

    def set_learning_rate(self, rate: tf.Tensor) -> None:
        """Sets the rate of the next step, a float32 scalar; call it outside the replicas."""
        for group in self.groups:
            own = rate if group.rate_factor == 1 else rate * group.rate_factor
            tf_variable(group.optimizer.learning_rate).assign(own)

    def weight_decay_at(self, step: tf.Tensor, total_steps: int):
        """Returns the decay. Source: official wd * (1 + weight_decay_inc * step / total_steps)."""
        if not self.train.weight_decay_inc:
            return self.train.weight_decay
        done = tf.cast(step, tf.float32) / total_steps
        return self.train.weight_decay * (1.0 + self.train.weight_decay_inc * done)

    def penalty(self, weight_decay) -> tf.Tensor | None:
        """Returns the weight decay term of the loss, a float32 scalar, or None if it has none."""
        if self.decoupled or not self.train.weight_decay or not self.decayed:
            return None
        return weight_decay * tf.add_n([tf.nn.l2_loss(tf_variable(w)) for w in self.decayed])

    def apply(self, gradients: list, weight_decay, head_only: bool = False) -> None:
        """Updates the weights with gradients summed over the replicas; call it in a replica.

        With decoupled weight decay, a weight w is first reduced by learning rate * `weight_decay`
        * w, as in AdamW; its gradient was computed before that. Source: arXiv 1711.05101.
        """
        done = 0
        for group in self._groups(head_only):
            if self.decoupled and self.train.weight_decay:
                decayed = {id(weight) for weight in self.decayed}
                weights = [tf_variable(w) for w in group.weights if id(w) in decayed]
                _shrink(weights, tf_variable(group.optimizer.learning_rate) * weight_decay)
            own = gradients[done : done + len(group.weights)]
            apply_summed(group.optimizer, own, group.weights)
            done += len(group.weights)

    def _groups(self, head_only: bool) -> list[_Group]:
        return [group for group in self.groups if group.in_head or not head_only]


def _make_groups(config: Config, model: keras.Model, weights: list) -> list[_Group]:
    train = config.train
    depths = head_depths(model) if train.layer_lr_decay < 1 else {}
    head = model.get_layer("classifier").weights if train.head_warmup_epoch else []
    in_head = {id(weight) for weight in head}
    found = {}
    for weight in weights:
        factor = train.layer_lr_decay ** depths.get(var_path(weight), 0)
        found.setdefault((factor, id(weight) in in_head), []).append(weight)
    groups = []
    for (factor, head_group), members in found.items():
        optimizer = make_optimizer(train.optimizer, train.momentum)
        build_optimizer(optimizer, members)
        groups.append(_Group(optimizer, members, factor, head_group))
    return groups


def _shrink(weights: list[tf.Variable], share: tf.Tensor) -> None:
    """Reduces each weight by the fraction `share` of itself; call it in a replica."""

    def update(strategy, share):
        for weight in weights:
            strategy.extended.update(
                weight, lambda w, s: w.assign_sub(w * s), args=(share,), group=False
            )

    tf.distribute.get_replica_context().merge_call(update, args=(share,))


def head_warmup_steps(config: Config) -> float:
    """Returns the number of initial steps in which only the classifier is trained."""
    epochs, images = config.train.head_warmup_epoch, config.data.splits.train.num_images
    return epochs * images / config.train.batch_size if epochs else 0


def trained_weights(model: keras.Model, config: Config) -> list:
    """Returns the weights to train; freezes BatchNorm if the config requires it.

    Frozen BatchNorm uses its moving statistics without updating them; its gamma and beta are
    frozen, too.
    Raises: UserError if a pattern matches no weight, or nothing is left to train.
    Source: official `train.varsexp`, matched anywhere in a path.
    """
    weights = _not_frozen(list(model.trainable_weights), config)
    if config.freezes_batch_norm:
        for layer in batch_norms(model):
            layer.trainable = False
        kept = {id(weight) for weight in model.trainable_weights}
        weights = [weight for weight in weights if id(weight) in kept]
    if not weights:
        given = {k: getattr(config.train, k) for k in ("varsexp", "freeze", "freeze_bn")}
        names = ", ".join(f"train.{k}={v}" for k, v in given.items() if v is not None)
        raise UserError(f"{names} leaves no weight to train; drop one of them")
    return weights


def _not_frozen(weights: list, config: Config) -> list:
    """Returns the weights that `train.varsexp` and `train.freeze` leave to train."""
    train, every, last = config.train, weights, var_path(weights[-1])
    for key, pattern, keep in (("varsexp", train.varsexp, True), ("freeze", train.freeze, False)):
        if pattern is None:
            continue
        if not any(re.search(pattern, var_path(w)) for w in every):
            raise UserError(
                f"train.{key}={pattern!r} matches no weight of the network; the last one is {last}"
            )
        weights = [w for w in weights if bool(re.search(pattern, var_path(w))) == keep]
    return weights


def decayed_weights(model: keras.Model, exclude: str) -> list:
    """Returns the weights subject to weight decay, whose path does not match `exclude`.

    Source: official; by default kernels, neither biases nor normalization weights.
    """
    return [w for w in model.trainable_weights if not re.search(exclude, var_path(w))]


def batch_norms(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the BatchNorm layers of a model, including those in blocks and nested models."""
    return [x for x in all_layers(model) if isinstance(x, keras.layers.BatchNormalization)]


def statistics(model: keras.Model) -> list[tf.Variable]:
    """Returns the moving statistics of the BatchNorm layers."""
    layers = batch_norms(model)
    return [tf_variable(w) for x in layers for w in (x.moving_mean, x.moving_variance)]


@contextlib.contextmanager
def batch_norm_frozen(model: keras.Model, frozen: bool = True):
    """Traces BatchNorm as in inference: the moving statistics are used and not updated."""
    layers = [layer for layer in batch_norms(model) if layer.trainable] if frozen else []
    try:
        for layer in layers:
            layer.trainable = False
        yield
    finally:
        for layer in layers:
            layer.trainable = True


def head_depths(model: keras.Model) -> dict[str, int]:
    """Returns {path of a weight: number of layers between it and the output}.

    Each block, the stem and the head's convolution count as one layer with their normalization: the
    classifier has depth 0, the head's convolution 1, the last block 2, the stem the largest.
    In a Keras architecture each layer with weights counts separately, including normalization.
    """
    units = []  # (layer name, weights), in the order of the layers.
    for layer in model.layers:
        inner = layer.layers if isinstance(layer, keras.Model) else [layer]
        for part in (x for x in inner if x.weights):
            name, own = part.name, inner == [layer]
            for step in ("stem", "head"):
                name = step if own and name.startswith(f"{step}_") else name
            if not units or units[-1][0] != name:
                units.append((name, []))
            units[-1][1].extend(part.weights)
    depths = reversed(range(len(units)))
    return {var_path(w): depth for depth, (_, weights) in zip(depths, units) for w in weights}
