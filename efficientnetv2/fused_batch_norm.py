"""Batch normalisation by TensorFlow's fused kernel where Keras does not use it."""

import keras

from efficientnetv2.compat import UNFUSED_BATCH_NORM


@keras.saving.register_keras_serializable("efficientnetv2")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer; on Keras 3 and TensorFlow, images are normalised by the fused kernel.

    Shapes: [B, H, W, C] -> same, over B, H and W; other ranks as Keras does.
    Statistics are float32 in half precision, too. The moving variance has Bessel's correction
    N / (N - 1), of the N = B * H * W values of a channel, as in Keras 2 and the official code.
    Left to Keras is what the kernel does not do: training with statistics over all replicas
    (`synchronized`), masks, other axes than the last, float64.
    """

    def call(self, inputs, training=None, mask=None):
        if not UNFUSED_BATCH_NORM:
            return super().call(inputs, training=training, mask=mask)
        moves = bool(training and self.trainable)
        if mask is not None or not self._can_fuse(inputs, moves):
            return super().call(inputs, training=moves, mask=mask)
        import tensorflow as tf

        results = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=tf.convert_to_tensor(self.moving_mean),
            variance=tf.convert_to_tensor(self.moving_variance),
            epsilon=self.epsilon,
            exponential_avg_factor=1.0 - self.momentum,
            is_training=moves,
        )
        if moves:
            self.moving_mean.assign(results.batch_mean)
            self.moving_variance.assign(results.batch_variance)
        return results.y

    def _can_fuse(self, inputs, moves: bool) -> bool:
        return (
            len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and self.scale
            and self.center
            and not self.renorm
            and not (moves and self.synchronized)
            and inputs.dtype in ("float32", "bfloat16", "float16")
            and inputs.dtype == self.compute_dtype
        )
