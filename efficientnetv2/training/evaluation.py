"""Evaluation: every example once, whatever the batch size and the number of replicas."""

import keras
import numpy as np
import tensorflow as tf

from efficientnetv2.training.run_log import Counter
from efficientnetv2.training.steps import make_eval_step
from hparams import UserError


class Evaluator:
    """Measures a model on data sets; traces its step once."""

    def __init__(self, strategy: tf.distribute.Strategy, model: keras.Model, batch_size: int):
        replicas = strategy.num_replicas_in_sync
        self.strategy = strategy
        self.batch_size = -(-batch_size // replicas) * replicas
        self.step = make_eval_step(strategy, model)

    def __call__(self, dataset: tf.data.Dataset) -> dict[str, float | int]:
        """Returns loss (mean cross entropy), top1, top5 (shares in [0, 1]) and examples.

        `dataset`: unbatched ({"image"}, {"label"}) examples, image uint8 or float [S, S, 3],
        label float32 [K]. With fewer than five classes `top5` is 1.
        Raises: UserError if there is no example.
        """
        batches = dataset.batch(self.batch_size).map(self._pad).prefetch(tf.data.AUTOTUNE)
        sums, counter = np.zeros(4), Counter("evaluating")
        for features, labels in self.strategy.experimental_distribute_dataset(batches):
            sums += self.step(features, labels).numpy()
            counter.add(self.batch_size)
        counter.close()
        loss, top1, top5, examples = sums
        if not examples:
            raise UserError("the evaluation split has 0 examples; check the data set's splits")
        return {
            "loss": float(loss / examples),
            "top1": float(top1 / examples),
            "top5": float(top5 / examples),
            "examples": int(examples),
        }

    def _pad(self, features, labels):
        """Fills the last batch with zeros, so that all batches have one static shape."""
        image, label = features["image"], labels["label"]
        rows = tf.shape(image)[0]
        missing = self.batch_size - rows
        weight = tf.concat([tf.ones([rows]), tf.zeros([missing])], axis=0)
        image = tf.pad(image, [[0, missing], [0, 0], [0, 0], [0, 0]])
        label = tf.pad(label, [[0, missing], [0, 0]])
        image.set_shape([self.batch_size, *features["image"].shape[1:]])
        label.set_shape([self.batch_size, *labels["label"].shape[1:]])
        weight.set_shape([self.batch_size])
        return {"image": image, "weight": weight}, {"label": label}
