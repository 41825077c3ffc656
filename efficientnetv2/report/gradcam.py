"""Where in an image the evidence for a class is: Grad-CAM. TensorFlow only."""

import keras
import numpy as np
import tensorflow as tf

from hparams import UserError


def grad_cam(model: keras.Model, images, classes) -> np.ndarray:
    """Returns maps of what raises the logit of a class, from the last features before pooling.

    Shapes: images [B, H, W, C], as the model takes them (pixels in [0, 255] with its own
    preprocessing); classes int [B], one per image -> float32 [B, h, w] in [0, 1], at the resolution
    of the features. Each map's largest value is 1, unless nothing speaks for the class: then it is
    all 0.

    `model`: a network of `build_model`, "keras/NAME" included, or any functional model that ends in
    global average pooling and a head.

        maps = grad_cam(model, images, np.argmax(model.predict(images), axis=-1))

    Raises: UserError if the model has no global average pooling.
    Source: arXiv 1610.02391: weights are the gradients' means over the map, negative sums are 0.
    """
    before, features_model, behind = _parts(model)
    features = _through(before, tf.cast(images, tf.float32))
    features = tf.cast(features_model(features, training=False), tf.float32)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(features)
        logits = tf.cast(_through(behind, features), tf.float32)
        # Their sum, since no image's logit depends on another image.
        chosen = tf.reduce_sum(tf.gather(logits, tf.cast(classes, tf.int32), batch_dims=1))
    gradients = tape.gradient(chosen, features)  # [B, h, w, channels]
    weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
    maps = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1))
    return tf.math.divide_no_nan(maps, tf.reduce_max(maps, axis=(1, 2), keepdims=True)).numpy()


def _parts(model: keras.Model) -> tuple[list, keras.Model, list]:
    """Returns the layers before the body, the body up to its pooling, and the layers from there.

    The body is the model itself, or, of "keras/NAME", the network inside of it.
    """
    layers = model.layers[1:]  # Without the input.
    bodies = [layer for layer in layers if isinstance(layer, keras.Model)]
    if not bodies:
        pool = _last_pooling(model)
        return [], keras.Model(model.inputs, pool.input), layers[layers.index(pool) :]
    body = bodies[-1]
    pool, at = _last_pooling(body), layers.index(body)
    inside = body.layers[body.layers.index(pool) :]
    return layers[:at], keras.Model(body.inputs, pool.input), inside + layers[at + 1 :]


def _last_pooling(model: keras.Model) -> keras.layers.Layer:
    kind = keras.layers.GlobalAveragePooling2D
    pools = [layer for layer in model.layers if isinstance(layer, kind)]
    if not pools:
        raise UserError(f"{model.name} has no global average pooling, which Grad-CAM needs")
    return pools[-1]


def _through(layers: list, x):
    for layer in layers:
        x = layer(x)
    return x
