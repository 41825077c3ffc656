"""The optimizer of a run: which weights it moves, how fast, and how they decay."""

import contextlib
import re
from typing import NamedTuple

import keras
import tensorflow as tf

from efficientnetv2.compat import (
    all_layers,
    apply_summed,
    build_optimizer,
    optimizer_variables,
    tf_variable,
    var_path,
)
from efficientnetv2.training.optimizers import make_optimizer
from efficientnetv2.training.precision import LossScale
from hparams import Config, UserError


class _Group(NamedTuple):
    """Weights that learn at one rate, with an optimizer of their own."""

    optimizer: keras.optimizers.Optimizer
    weights: list
    rate_factor: float
    in_head: bool


class Optimization:
    """What moves the weights of a run, with its state; freezes what the config says.

    Create it under the scope of the strategy, after loading weights and before `WeightAverage`.
    Weights of one learning rate share an optimizer: with `train.layer_lr_decay` d those of depth k
    (see `head_depths`) learn at d**k of the rate, exactly, whatever the optimizer; with
    `train.head_warmup_epoch` the classifier has its own, so that the state of the others starts
    when they do.
    Raises: UserError for an unknown optimizer, or settings that leave nothing to train.
    """

    def __init__(self, config: Config, model: keras.Model):
        train = self.train = config.train
        # All of them, as officially, whether they learn or not.
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
        """The optimizer, of the first weights if there are several."""
        return self.groups[0].optimizer

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """All of the state, by a key that is the same in every process."""
        found = {}
        for number, group in enumerate(self.groups):
            prefix = f"group_{number}/" if len(self.groups) > 1 else ""
            for i, variable in enumerate(optimizer_variables(group.optimizer)):
                # A name that Keras has numbered is another in another process.
                path = re.sub(r"^variable_\d+$", "variable", var_path(variable))
                found[f"{prefix}{i}/{path}"] = tf_variable(variable)
        return found | (self.loss_scale.variables if self.loss_scale else {})

    def weights(self, head_only: bool = False) -> list:
        """The weights that learn, in the order of the gradients that `apply` takes."""
        return [w for group in self._groups(head_only) for w in group.weights]

    def set_learning_rate(self, rate: tf.Tensor) -> None:
        """Sets the rate of the next step. float32 scalar; outside of the replicas."""
        for group in self.groups:
            own = rate if group.rate_factor == 1 else rate * group.rate_factor
            tf_variable(group.optimizer.learning_rate).assign(own)

    def weight_decay_at(self, step: tf.Tensor, total_steps: int):
        """Source: official wd * (1 + weight_decay_inc * step / total_steps)."""
        if not self.train.weight_decay_inc:
            return self.train.weight_decay
        done = tf.cast(step, tf.float32) / total_steps
        return self.train.weight_decay * (1.0 + self.train.weight_decay_inc * done)

    def penalty(self, weight_decay) -> tf.Tensor | None:
        """The part of weight decay that is in the loss: float32 scalar; None: no part is."""
        if self.decoupled or not self.train.weight_decay or not self.decayed:
            return None
        return weight_decay * tf.add_n([tf.nn.l2_loss(tf_variable(w)) for w in self.decayed])

    def apply(self, gradients: list, weight_decay, head_only: bool = False) -> None:
        """In a replica: updates the weights by gradients that are summed over the replicas.

        Decoupled, a weight first loses learning rate * `weight_decay` of itself, which is AdamW's
        rule; its gradient is of before. Source: arXiv 1711.05101.
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
    """In a replica: takes a share of each weight away."""

    def update(strategy, share):
        for weight in weights:
            strategy.extended.update(
                weight, lambda w, s: w.assign_sub(w * s), args=(share,), group=False
            )

    tf.distribute.get_replica_context().merge_call(update, args=(share,))


def head_warmup_steps(config: Config) -> float:
    """The number of steps at the start in which the classifier alone learns."""
    epochs, images = config.train.head_warmup_epoch, config.data.splits.train.num_images
    return epochs * images / config.train.batch_size if epochs else 0


def trained_weights(model: keras.Model, config: Config) -> list:
    """Returns the weights that learn; freezes BatchNorm if the config says so.

    Frozen BatchNorm uses its statistics and does not move them; its gamma and beta are frozen too.
    Raises: UserError if a pattern matches no weight, or nothing is left to train.
    Source: official `train.varsexp`, found anywhere in a path.
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
    """The weights that `train.varsexp` and `train.freeze` leave."""
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
    """The weights under weight decay: those whose path does not match `exclude`.

    Source: official; by default kernels, neither biases nor what normalisation has.
    """
    return [w for w in model.trainable_weights if not re.search(exclude, var_path(w))]


def batch_norms(model: keras.Model) -> list[keras.layers.Layer]:
    """The BatchNorm layers of a model, those inside blocks and nested models too."""
    return [x for x in all_layers(model) if isinstance(x, keras.layers.BatchNormalization)]


def statistics(model: keras.Model) -> list[tf.Variable]:
    """The moving statistics of BatchNorm."""
    layers = batch_norms(model)
    return [tf_variable(w) for x in layers for w in (x.moving_mean, x.moving_variance)]


@contextlib.contextmanager
def batch_norm_frozen(model: keras.Model, frozen: bool = True):
    """Inside, BatchNorm is traced as in inference: its statistics are used and do not move."""
    layers = [layer for layer in batch_norms(model) if layer.trainable] if frozen else []
    try:
        for layer in layers:
            layer.trainable = False
        yield
    finally:
        for layer in layers:
            layer.trainable = True


def head_depths(model: keras.Model) -> dict[str, int]:
    """Returns {path of a weight: how many layers are between it and the output}.

    Counted are blocks, the stem and the head's convolution, each with its normalisation: the
    classifier has depth 0, the head's convolution 1, the last block 2, the stem the largest.
    In an architecture of Keras each layer with weights counts, normalisation by itself.
    """
    units = []  # Of the weights of a layer, in the order of the layers.
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
