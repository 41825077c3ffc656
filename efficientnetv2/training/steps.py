"""One training step, over the replicas of a strategy."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from efficientnetv2.compat import tf_variable, var_path
from efficientnetv2.noise import noise_from
from efficientnetv2.training.ema import WeightAverage
from efficientnetv2.training.losses import make_loss
from efficientnetv2.training.step_noise import StepNoise
from hparams import Config


def decayed_weights(model: keras.Model) -> list[tf.Variable]:
    """The weights under weight decay: kernels, neither biases nor BatchNorm's. Source: official."""
    kernels = [w for w in model.trainable_weights if var_path(w).endswith("kernel")]
    return [tf_variable(w) for w in kernels]


def make_train_step(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    average: WeightAverage | None,
    config: Config,
    batch_size: int,
    class_weights: Sequence[float] | None = None,
):
    """Returns `train_step(features, labels, step) -> (loss, correct)`, freshly traced.

    Make a new one for every stage: a traced step keeps the drop rates it was traced with.
    `features`: {"image": uint8 [B, S, S, 3]}; `labels`: {"label": float32 [B, K]}; `step`: int64
    scalar, the number of updates made before. `loss` is the mean over the global batch with weight
    decay, `correct` the number of examples whose largest logit is at their largest label, or at one
    of several such; none is right for an example without labels. `class_weights`: see `make_loss`.
    Source: official: L2 of weight_decay / 2 * |kernel|^2 goes through the optimizer (coupled).
    """
    train = config.train
    loss_of = make_loss(
        train.loss_type,
        smoothing=train.label_smoothing,
        class_weights=class_weights,
        multi_label=config.data.multiclass,
    )
    kernels = decayed_weights(model)
    replicas = strategy.num_replicas_in_sync

    def replica_step(features, labels, step):
        images, labels = features["image"], labels["label"]
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        noise = StepNoise(train.seed, step, replica * (batch_size // replicas), batch_size)
        with tf.GradientTape() as tape:
            with noise_from(noise):
                logits = tf.cast(model(images, training=True), tf.float32)
            losses = loss_of(labels, logits)
            decay = train.weight_decay * tf.add_n([tf.nn.l2_loss(kernel) for kernel in kernels])
            # Gradients are summed over the replicas.
            loss = tf.reduce_sum(losses) / batch_size + decay / replicas
        weights = model.trainable_weights
        gradients = tape.gradient(loss, [tf_variable(w) for w in weights])
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        if average is not None:
            average.update(step + 1)
        return loss, tf.reduce_sum(tf.cast(_best_is_right(labels, logits), tf.int64))

    @tf.function
    def train_step(features, labels, step):
        loss, correct = strategy.run(replica_step, args=(features, labels, step))
        total = tf.distribute.ReduceOp.SUM
        return strategy.reduce(total, loss, axis=None), strategy.reduce(total, correct, axis=None)

    return train_step


def _best_is_right(labels, logits):
    """Whether the largest logit is at a largest label. float32 [B, K], [B, K] -> bool [B]."""
    label = tf.gather(labels, tf.argmax(logits, axis=-1), batch_dims=1)
    return (label > 0) & (label == tf.reduce_max(labels, axis=-1))
