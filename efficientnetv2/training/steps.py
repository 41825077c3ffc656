"""One training step and one evaluation step, over the replicas of a strategy."""

import keras
import tensorflow as tf

from efficientnetv2.compat import tf_variable, var_path
from efficientnetv2.noise import noise_from
from efficientnetv2.training.ema import WeightAverage
from efficientnetv2.training.step_noise import StepNoise
from hparams import Config


def smoothed_cross_entropy(labels, logits, smoothing: float):
    """Softmax cross entropy per example.

    Shapes: float32 [B, K] distributions, float32 [B, K] -> float32 [B].
    Source: official: smoothed labels are y * (1 - s) + s / K.
    """
    classes = labels.shape[-1]
    labels = labels * (1 - smoothing) + smoothing / classes
    return tf.nn.softmax_cross_entropy_with_logits(labels=labels, logits=logits)


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
):
    """Returns `train_step(features, labels, step) -> (loss, correct)`, freshly traced.

    Make a new one for every stage: a traced step keeps the drop rates it was traced with.
    `features`: {"image": uint8 [B, S, S, 3]}; `labels`: {"label": float32 [B, K]}; `step`: int64
    scalar, the number of updates made before. `loss` is the mean over the global batch with weight
    decay, `correct` the number of examples whose largest logit is at their largest label.
    Source: official: L2 of weight_decay / 2 * |kernel|^2 goes through the optimizer (coupled).
    """
    train = config.train
    kernels = decayed_weights(model)
    replicas = strategy.num_replicas_in_sync

    def replica_step(features, labels, step):
        images, labels = features["image"], labels["label"]
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        noise = StepNoise(train.seed, step, replica * (batch_size // replicas), batch_size)
        with tf.GradientTape() as tape:
            with noise_from(noise):
                logits = tf.cast(model(images, training=True), tf.float32)
            losses = smoothed_cross_entropy(labels, logits, train.label_smoothing)
            decay = train.weight_decay * tf.add_n([tf.nn.l2_loss(kernel) for kernel in kernels])
            # Gradients are summed over the replicas.
            loss = tf.reduce_sum(losses) / batch_size + decay / replicas
        weights = model.trainable_weights
        gradients = tape.gradient(loss, [tf_variable(w) for w in weights])
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        if average is not None:
            average.update(step + 1)
        hits = tf.equal(tf.argmax(logits, axis=-1), tf.argmax(labels, axis=-1))
        return loss, tf.reduce_sum(tf.cast(hits, tf.int64))

    @tf.function
    def train_step(features, labels, step):
        loss, correct = strategy.run(replica_step, args=(features, labels, step))
        total = tf.distribute.ReduceOp.SUM
        return strategy.reduce(total, loss, axis=None), strategy.reduce(total, correct, axis=None)

    return train_step


def make_eval_step(strategy: tf.distribute.Strategy, model: keras.Model):
    """Returns `eval_step(features, labels) -> sums`, to add up over batches.

    `features` also holds "weight", float32 [B], 0 for rows that only pad a batch. `sums`: float32
    [4]: cross entropy (no smoothing, no weight decay), top-1 hits, top-5 hits, examples.
    """

    def replica_step(features, labels):
        labels, weight = labels["label"], features["weight"]
        logits = tf.cast(model(features["image"], training=False), tf.float32)
        losses = smoothed_cross_entropy(labels, logits, 0.0)
        target = tf.argmax(labels, axis=-1, output_type=tf.int32)
        own = tf.gather(logits, target, batch_dims=1)[:, tf.newaxis]
        # NaN compares false, so it counts as larger: an example without finite logits is no hit.
        # (TensorFlow rewrites ~(a <= b) as a > b, which is not the same for NaN.)
        rank = logits.shape[-1] - tf.reduce_sum(tf.cast(logits <= own, tf.int32), axis=-1)
        top1, top5 = tf.cast(rank < 1, tf.float32), tf.cast(rank < 5, tf.float32)
        rows = tf.stack([losses, top1, top5, tf.ones_like(losses)])
        return tf.reduce_sum(tf.where(weight > 0, rows, 0.0), axis=-1)

    @tf.function
    def eval_step(features, labels):
        sums = strategy.run(replica_step, args=(features, labels))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    return eval_step
