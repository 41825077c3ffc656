"""Image bytes in, classes out: what inference, the SavedModel and its verification all run."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from datasets.preprocess import preprocess_eval
from efficientnetv2.compat import tf_variable
from hparams import DataConfig

TOP_K = 5
ACTIVATIONS = {"softmax": tf.nn.softmax, "sigmoid": tf.nn.sigmoid}


class ServingModule(tf.Module):
    """A trained model with its preprocessing and its class names.

    The functions become the signatures of the SavedModel; their names and those of their inputs
    and outputs are the same on both Keras generations. `scores` are probabilities, float32 [N, K];
    `classes` the indices of the k best, int64 [N, k], best first; `labels` their names.
    `activation`, "softmax" or "sigmoid", makes scores of logits; see `losses.activation_of`.

    Raises: InvalidArgumentError from a call with bytes that are no image.
    `classify`, no signature, is `serving_default` with `logits`, float32 [N, K].
    `pixels` turns image bytes, string [N], into what the network sees: float32 [N, S, S, 3] as
    resized, not rounded; `predict_images` takes uint8, which is up to half a level away.
    """

    def __init__(
        self,
        model: keras.Model,
        image_size: int,
        data: DataConfig,
        class_names: Sequence[str] = (),
        activation: str = "softmax",
    ):
        super().__init__()
        pooled = keras.Model(model.input, model.get_layer("head_pool").output)
        # Tracked as plain variables: the graph must not need Keras to be loaded.
        self.model_variables = [tf_variable(weight) for weight in model.weights]
        names = tf.constant(list(class_names), tf.string) if class_names else None
        scores_of = ACTIVATIONS[activation]
        images_spec = tf.TensorSpec([None, image_size, image_size, 3], tf.uint8, name="images")

        def logits_of(images):
            return tf.cast(model(images, training=False), tf.float32)

        def top(logits):
            best = tf.math.top_k(logits, min(TOP_K, logits.shape[-1]))
            classes = tf.cast(best.indices, tf.int64)
            results = {"scores": scores_of(logits), "classes": classes}
            return results if names is None else {**results, "labels": tf.gather(names, classes)}

        def decode(one):
            return preprocess_eval(
                one,
                image_size,
                crop=data.eval_crop,
                resize_method=data.resize_method,
                exact=True,
            )

        def pixels(image_bytes):
            spec = tf.TensorSpec([image_size, image_size, 3], tf.float32)
            return tf.map_fn(decode, image_bytes, fn_output_signature=spec)

        bytes_spec = tf.TensorSpec([None], tf.string, name="image_bytes")

        @tf.function(input_signature=[bytes_spec])
        def classify(image_bytes):
            logits = logits_of(pixels(image_bytes))
            return {**top(logits), "logits": logits}

        @tf.function(input_signature=[bytes_spec])
        def serving_default(image_bytes):
            return top(logits_of(pixels(image_bytes)))

        @tf.function(input_signature=[images_spec])
        def predict_images(images):
            return top(logits_of(images))

        @tf.function(input_signature=[images_spec])
        def predict_features(images):
            return {"features": tf.cast(pooled(images, training=False), tf.float32)}

        self.pixels = pixels
        self.classify = classify
        self.serving_default = serving_default
        self.predict_images = predict_images
        self.predict_features = predict_features

    def signatures(self) -> dict:
        """The functions by the name of their signature."""
        return {
            "serving_default": self.serving_default,
            "predict_images": self.predict_images,
            "predict_features": self.predict_features,
        }
