"""What training minimises: five losses per example, and class weights for skewed data.

`train.loss_type` names a loss and, with it, what a score is: those of "softmax" and "focal" add up
to 1 over the classes, those of the others are a probability per class on its own.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from efficientnetv2.common.errors import UserError

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

_SMALLEST = 1e-7  # Of a base of `_power`.
_ACTIVATIONS = {
    "softmax": "softmax",
    "sigmoid": "sigmoid",
    "custom": "sigmoid",
    "focal": "softmax",
    "sigmoid_focal": "sigmoid",
}


def activation_of(loss_type: str) -> str:
    """Returns what turns the logits of a network trained with this loss into scores."""
    return _ACTIVATIONS[loss_type]


def make_loss(
    loss_type: str,
    *,
    smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
    multi_label: bool = False,
    focal_gamma: float = 2.0,
) -> Loss:
    """Returns `loss(labels, logits)`, per example.

    Shapes: float32 [B, K] labels in [0, 1], float32 [B, K] logits -> float32 [B]. The loss of a
    batch is the mean over its B examples, weighted or not.

    `class_weights`, one w_k per class: an example counts sum_k y_k w_k, with its labels y before
    smoothing, divided by their sum; Mixup blends the weights as it blends labels. With several
    labels per example (`multi_label`) the sigmoid losses weigh terms, not examples: what class k
    contributes counts w_k where the label is there and 1 where it is not, in between by its share.
    `focal_gamma` is of the focal losses, which without it, at 0, are softmax and sigmoid.
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
        else:  # "custom": officially without smoothing.
            losses = tf.reduce_sum(sigmoid_terms(labels, logits, 0.0, term_weights), axis=-1)
        if class_weights is None or by_term:
            return losses
        return losses * tf.linalg.matvec(_shares(labels), tf.constant(class_weights, tf.float32))

    return loss


def softmax_loss(labels, logits, smoothing: float, gamma: float = 0.0):
    """Softmax cross entropy per example, of the labels divided by their sum.

    Shapes: float32 [B, K], float32 [B, K] -> float32 [B]; 0 for an example without labels, which
    has no gradient either.
    With a `gamma` the term of a class with score p counts (1 - p)**gamma (focal loss).
    Source: official: smoothed labels are y * (1 - s) + s / K; focal: arXiv 1708.02002, and
    Keras' CategoricalFocalCrossentropy at alpha 1.
    Deviates: there an example without labels makes the loss NaN (defect D11).
    """
    classes = labels.shape[-1]
    # Where the labels are no number, neither is the loss.
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
    """Sigmoid cross entropy per class, of smoothed labels y * (1 - s) + s / 2.

    Shapes: float32 [B, K], float32 [B, K] -> float32 [B, K].
    `class_weights` count the terms as `make_loss` says. Smoothing stays inside of a term: were the
    share s / 2 that it gives to an absent label weighted, too, a rare class's weight would make
    its presence the better guess for every image.
    With a `gamma` the part for presence counts (1 - p)**gamma at the score p, that for absence
    p**gamma (focal loss). Its paper adds up the classes of a box, without smoothing and with a
    balance alpha; here their mean is taken, as of "sigmoid".
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
    """Returns the weight of each class, n / (K * n_c): on average over the labels it is 1.

    `counts`: the n_c training examples of each of the K classes; n is their sum, the number of
    labels where an example may have several.
    Raises: UserError naming a class without an example.
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
    """`base`, in [0, 1], to a power; its gradient is finite at 0, where the exponent is below 1."""
    return tf.pow(tf.maximum(base, _SMALLEST), exponent)


def _shares(labels):
    """The labels divided by their sum, so that each example's are a distribution, or all zero."""
    return tf.math.divide_no_nan(labels, tf.reduce_sum(labels, axis=-1, keepdims=True))
