"""Training losses: five per-example losses, and class weights for imbalanced data.

`train.loss_type` selects a loss and thereby the meaning of a score: scores of "softmax" and "focal"
sum to 1 over the classes, those of the others are independent probabilities per class.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from efficientnetv2.common.errors import UserError

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

_SMALLEST = 1e-7  # Lower bound of the base in `_power`.
_ACTIVATIONS = {
    "softmax": "softmax",
    "sigmoid": "sigmoid",
    "custom": "sigmoid",
    "focal": "softmax",
    "sigmoid_focal": "sigmoid",
}


def activation_of(loss_type: str) -> str:
    """Returns the activation that turns logits of a network trained with this loss into scores."""
    return _ACTIVATIONS[loss_type]


def make_loss(
    loss_type: str,
    *,
    smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
    multi_label: bool = False,
    focal_gamma: float = 2.0,
) -> Loss:
    """Returns the per-example loss `loss(labels, logits)`.

    Shapes: float32 [B, K] labels in [0, 1], float32 [B, K] logits -> float32 [B]. The loss of a
    batch is the mean over its B examples, weighted or not.

    `class_weights`, one w_k per class: the weight of an example is sum_k y_k w_k, where y are its
    labels before smoothing, divided by their sum; Mixup blends the weights as it blends labels.
    With several labels per example (`multi_label`) the sigmoid losses weight terms, not examples:
    the term of class k has weight w_k if the label is present and 1 if it is absent; fractional
    labels interpolate between the two. `focal_gamma` is the exponent of the focal losses; at 0 they
    equal softmax and sigmoid.
    """
    by_term = multi_label and activation_of(loss_type) == "sigmoid"
    term_weights = class_weights if by_term else None
    gamma = focal_gamma if loss_type in ("focal", "sigmoid_focal") else 0.0

    def loss(labels, logits):
        if activation_of(loss_type) == "softmax":
            losses = softmax_loss(labels, logits, smoothing, gamma)
        elif loss_type != "custom":
            terms = sigmoid_terms(labels, logits, smoothing, term_weights, gamma)
            losses = tf.reduce_mean(terms, axis=-1)
        else:  # "custom": without smoothing, as officially.
            losses = tf.reduce_sum(sigmoid_terms(labels, logits, 0.0, term_weights), axis=-1)
        if class_weights is None or by_term:
            return losses
        return losses * tf.linalg.matvec(_shares(labels), tf.constant(class_weights, tf.float32))

    return loss


def softmax_loss(labels, logits, smoothing: float, gamma: float = 0.0):
    """Computes softmax cross entropy per example, with the labels divided by their sum.

    Shapes: float32 [B, K], float32 [B, K] -> float32 [B]; 0, with zero gradient, for an example
    without labels.
    A nonzero `gamma` multiplies the term of a class with score p by (1 - p)**gamma (focal loss).
    Source: official: smoothed labels are y * (1 - s) + s / K; focal: arXiv 1708.02002, and
    Keras' CategoricalFocalCrossentropy at alpha 1.
    Deviates: officially, an example without labels makes the loss NaN (defect D11).
    """
    classes = labels.shape[-1]
    # NaN labels give a NaN loss.
    has_labels = tf.cast(tf.reduce_sum(labels, axis=-1) != 0, tf.float32)
    smoothed = _shares(labels) * (1 - smoothing) + smoothing / classes
    if gamma:
        terms = smoothed * tf.nn.log_softmax(logits)
        losses = -tf.reduce_sum(_power(1 - tf.nn.softmax(logits), gamma) * terms, axis=-1)
    else:
        losses = tf.nn.softmax_cross_entropy_with_logits(labels=smoothed, logits=logits)
    return has_labels * losses


def sigmoid_terms(
    labels,
    logits,
    smoothing: float,
    class_weights: Sequence[float] | None = None,
    gamma: float = 0.0,
):
    """Computes sigmoid cross entropy per class, with smoothed labels y * (1 - s) + s / 2.

    Shapes: float32 [B, K], float32 [B, K] -> float32 [B, K].
    `class_weights` weight the terms as described in `make_loss`. Smoothing is applied within a
    term: if the s / 2 that it assigns to an absent label were weighted, too, the weight of a rare
    class would make its presence the better guess for every image.
    A nonzero `gamma` multiplies the term for presence by (1 - p)**gamma, where p is the score, and
    that for absence by p**gamma (focal loss). The paper sums over the classes of a box, without
    smoothing and with a balance factor alpha; here the mean is used, as for "sigmoid".
    Source: official; focal: arXiv 1708.02002.
    """
    weights = 1.0 if class_weights is None else tf.constant(class_weights, tf.float32)
    there, absent = labels * weights, 1 - labels
    low, high = smoothing / 2, 1 - smoothing / 2
    for_presence = there * high + absent * low
    for_absence = there * low + absent * high
    if gamma:
        score = tf.sigmoid(logits)
        for_presence *= _power(1 - score, gamma)
        for_absence *= _power(score, gamma)
    return for_presence * tf.nn.softplus(-logits) + for_absence * tf.nn.softplus(logits)


def class_weights_of(counts: Sequence[int], class_names: Sequence[str]) -> tuple[float, ...]:
    """Returns the weight of each class, n / (K * n_c); the mean over all labels is 1.

    `counts`: the number of training examples n_c of each of the K classes; n is their sum, which
    is the number of labels if an example may have several.
    Raises: UserError naming a class without examples.
    """
    for name, count in zip(class_names, counts, strict=True):
        if not count:
            raise UserError(
                f"class {name!r} has no training example, so data.class_balance=loss has no weight "
                "for it; take it out, add examples, or drop data.class_balance"
            )
    total = sum(counts)
    return tuple(total / (len(counts) * count) for count in counts)


def _power(base, exponent: float):
    """Computes a power of `base` in [0, 1]; for exponents below 1, the gradient at 0 is finite."""
    return tf.pow(tf.maximum(base, _SMALLEST), exponent)


def _shares(labels):
    """Divides labels by their sum, so that each example's are a distribution, or all zero."""
    return tf.math.divide_no_nan(labels, tf.reduce_sum(labels, axis=-1, keepdims=True))
