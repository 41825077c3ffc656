"""Serving functions from image bytes to classes, used for inference and in the SavedModel."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from efficientnetv2.datasets.preprocess import preprocess_eval
from efficientnetv2.export.frozen import as_function, freeze
from efficientnetv2.hparams import DataConfig

TOP_K = 5
SIGNATURES = "serving_default", "predict_images", "predict_images_float", "predict_features"


class ServingModule(tf.Module):
    """A trained model with its preprocessing and its class names, all stored as constants.

    The functions become the signatures of the SavedModel; their names and those of their inputs
    and outputs are the same on both Keras generations. `scores` are probabilities, float32 [N, K];
    `classes` the indices of the k best, int64 [N, k], best first; `labels` their names.
    `activation`, "softmax" or "sigmoid", turns logits into scores; see `losses.activation_of`.

    `classify`, which is not a signature, is `serving_default` with `logits`, float32 [N, K].
    `pixels` turns image bytes, string [N], into the network's input: float32 [N, S, S, 3], resized
    and not rounded; the uint8 input of `predict_images` differs from it by up to half a level.
    `graph` is the frozen network, see `frozen.freeze`.

    Raises: InvalidArgumentError from a call with bytes that are not an image, or with an image of
    more than `data.max_pixels` pixels; its message contains the position in the batch, as "image_3"
    or "image 3".
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
        self.graph = freeze(model, image_size, activation)
        network = as_function(self.graph)
        names = tf.constant(list(class_names), tf.string) if class_names else None

        def images_spec(dtype):
            return tf.TensorSpec([None, image_size, image_size, 3], dtype, name="images")

        def answer(images):
            scores, logits, _ = network(tf.cast(images, tf.float32))
            best = tf.math.top_k(logits, min(TOP_K, logits.shape[-1]))
            classes = tf.cast(best.indices, tf.int64)
            results = {"scores": scores, "classes": classes}
            if names is not None:
                results["labels"] = tf.gather(names, classes)
            return results, logits

        def decode(numbered):
            position, image_bytes = numbered
            return evaluation_pixels(image_bytes, image_size, data, position)

        def pixels(image_bytes):
            spec = tf.TensorSpec([image_size, image_size, 3], tf.float32)
            numbered = (tf.range(tf.size(image_bytes)), image_bytes)
            return tf.map_fn(decode, numbered, fn_output_signature=spec)

        bytes_spec = tf.TensorSpec([None], tf.string, name="image_bytes")

        @tf.function(input_signature=[bytes_spec])
        def classify(image_bytes):
            results, logits = answer(pixels(image_bytes))
            return {**results, "logits": logits}

        @tf.function(input_signature=[bytes_spec])
        def serving_default(image_bytes):
            return answer(pixels(image_bytes))[0]

        @tf.function(input_signature=[images_spec(tf.uint8)])
        def predict_images(images):
            return answer(images)[0]

        @tf.function(input_signature=[images_spec(tf.float32)])
        def predict_images_float(images):
            return answer(images)[0]

        @tf.function(input_signature=[images_spec(tf.uint8)])
        def predict_features(images):
            return {"features": network(tf.cast(images, tf.float32))[2]}

        self.pixels = tf.function(pixels, input_signature=[bytes_spec])
        self.classify = classify
        self.serving_default = serving_default
        self.predict_images = predict_images
        self.predict_images_float = predict_images_float
        self.predict_features = predict_features

    def signatures(self) -> dict:
        """Returns the functions by the names of their signatures."""
        return {name: getattr(self, name) for name in SIGNATURES}


def evaluation_pixels(image_bytes, image_size: int, data: DataConfig, position=None) -> tf.Tensor:
    """Decodes a scalar string to the network's input, float32 [S, S, 3]; see `preprocess_eval`."""
    return preprocess_eval(
        image_bytes,
        image_size,
        crop=data.eval_crop,
        resize_method=data.resize_method,
        exact=True,
        max_pixels=data.max_pixels,
        position=position,
    )
