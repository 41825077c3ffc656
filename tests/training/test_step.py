"""The training step's loss and gradients."""

import numpy as np
import pytest
import tensorflow as tf
import tiny_run

from efficientnetv2 import build_model, hparams
from efficientnetv2.network.compat import tf_variable, var_path
from efficientnetv2.training.losses import make_loss
from efficientnetv2.training.optimizer import Optimization
from efficientnetv2.training.step import make_train_step, set_dropout

STRATEGY = tf.distribute.get_strategy()
BATCH = 4
STAGE = hparams.Stage(0, 0, 10, 1.0, 16, BATCH, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def model():
    """Without noise, so that a training pass can be repeated outside of the step."""
    return build_model(
        tiny_run.SPEC, num_classes=tiny_run.CLASSES, dropout_rate=0.0, drop_path_rate=0.0
    )


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (BATCH, 16, 16, 3), dtype=np.uint8)
    label = rng.dirichlet(np.ones(tiny_run.CLASSES), BATCH).astype(np.float32)
    return {"image": tf.constant(image)}, {"label": tf.constant(label)}


def cross_entropy(labels, logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return -(labels * (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))).sum(-1)


def one_step(model, batch, overrides, class_weights=None, multi_label=False):
    """Returns loss, hits and gradients by path; the model's trainable weights stay as they are."""
    before = {var_path(w): tf_variable(w).numpy() for w in model.weights}
    config = tiny_run.make_config(f"train.optimizer=sgd,{overrides}")
    config = hparams.with_values(config, data__multiclass=multi_label)
    optimization = Optimization(config, model)
    step = make_train_step(STRATEGY, model, optimization, None, config, STAGE, 10, class_weights)
    result = step(*batch, 0, 1.0)
    gradients = {}
    for weight in model.weights:
        path = var_path(weight)
        gradients[path] = before[path] - tf_variable(weight).numpy()
        tf_variable(weight).assign(before[path])
    norm = np.sqrt(sum((gradients[var_path(w)] ** 2).sum() for w in model.trainable_weights))
    assert float(result.gradient_norm) == pytest.approx(norm, rel=1e-3, abs=1e-6)
    return float(result.loss), int(result.correct), gradients


def test_weight_decay_goes_through_the_gradient_of_the_kernels(model, batch):
    loss, correct, gradients = one_step(model, batch, "train.weight_decay=0")
    decayed_loss, decayed_correct, decayed = one_step(model, batch, "train.weight_decay=0.5")
    squares = 0.0
    for weight in model.trainable_weights:
        path, value = var_path(weight), tf_variable(weight).numpy()
        added = decayed[path] - gradients[path]
        if path.endswith("kernel"):
            squares += (value.astype(np.float64) ** 2).sum()
            np.testing.assert_allclose(added, 0.5 * value, rtol=1e-3, atol=1e-4, err_msg=path)
        else:
            np.testing.assert_allclose(added, 0, atol=1e-5, err_msg=path)
    assert decayed_loss - loss == pytest.approx(0.5 * squares / 2, rel=1e-4)
    assert decayed_correct == correct


def test_loss_is_the_mean_smoothed_cross_entropy_and_hits_count_mixed_labels(model, batch):
    loss, correct, _ = one_step(model, batch, "train.weight_decay=0,train.label_smoothing=0.2")
    features, labels = batch
    logits = model(features["image"], training=True).numpy()
    label = labels["label"].numpy()
    expected = cross_entropy(label * 0.8 + 0.2 / tiny_run.CLASSES, logits).mean()
    assert loss == pytest.approx(expected, rel=1e-4)
    assert correct == (logits.argmax(-1) == label.argmax(-1)).sum()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("loss_type", ["softmax", "sigmoid", "custom"])
def test_the_settings_decide_which_loss_is_minimised(
    model, batch, loss_type, multi_label, weighted
):
    weights = np.linspace(0.5, 3, tiny_run.CLASSES).tolist() if weighted else None
    settings = f"train.weight_decay=0,train.label_smoothing=0.2,train.loss_type={loss_type}"
    loss, _, _ = one_step(model, batch, settings, weights, multi_label)
    features, labels = batch
    loss_of = make_loss(loss_type, smoothing=0.2, class_weights=weights, multi_label=multi_label)
    losses = loss_of(labels["label"], model(features["image"], training=True))
    assert loss == pytest.approx(float(tf.reduce_mean(losses)), rel=1e-4)


def test_right_are_examples_whose_best_class_is_one_of_their_labels(model, batch):
    features, _ = batch
    best = model(features["image"], training=True).numpy().argmax(-1)
    label = np.zeros((BATCH, tiny_run.CLASSES), np.float32)
    label[0, best[0]] = label[0, best[0] - 1] = label[0, best[0] - 2] = 1  # Among others.
    label[1, best[1] - 1] = 1  # Another.
    # The third has none; the fourth is mixed, and its best class is the lesser part.
    label[3, best[3] - 1] = 0.7
    for share, expected in ((0.3, 1), (0.7, 2)):  # At 0.7 it is as large as the other.
        label[3, best[3]] = share
        mixed = (features, {"label": tf.constant(label)})
        _, correct, _ = one_step(model, mixed, "train.loss_type=sigmoid", multi_label=True)
        assert correct == expected


def test_an_example_without_labels_moves_nothing_under_softmax(model, batch):
    features, _ = batch
    nothing = tf.zeros([BATCH, tiny_run.CLASSES])
    unlabelled = (features, {"label": nothing})
    loss, correct, gradients = one_step(model, unlabelled, "train.weight_decay=0", multi_label=True)
    assert (loss, correct) == (0, 0)
    for weight in model.trainable_weights:
        assert not gradients[var_path(weight)].any(), var_path(weight)


def test_every_trainable_weight_gets_a_gradient(model, batch):
    _, _, gradients = one_step(model, batch, "train.weight_decay=0")
    for weight in model.trainable_weights:
        assert np.abs(gradients[var_path(weight)]).max() > 0, var_path(weight)


def test_clipping_is_each_and_then_all(model, batch):
    _, _, gradients = one_step(model, batch, "train.weight_decay=0")
    config = tiny_run.make_config("train.optimizer=sgd,train.weight_decay=0,train.gclip=0.2")
    step = make_train_step(STRATEGY, model, Optimization(config, model), None, config, STAGE, 10)
    before = {var_path(w): tf_variable(w).numpy() for w in model.weights}
    norm = step(*batch, 0, 1.0).gradient_norm
    paths = [var_path(w) for w in model.trainable_weights]
    each = [g * min(1, 0.2 / np.linalg.norm(g)) for g in (gradients[path] for path in paths)]
    shares = 0.2 / np.sqrt(sum((g**2).sum() for g in each))
    assert shares < 1
    for path, weight, gradient in zip(paths, model.trainable_weights, each, strict=True):
        change = before[path] - tf_variable(weight).numpy()
        np.testing.assert_allclose(change, gradient * shares, rtol=1e-3, atol=1e-5, err_msg=path)
    whole = np.sqrt(sum((gradients[path] ** 2).sum() for path in paths))
    assert float(norm) == pytest.approx(whole, rel=1e-4)
    for weight in model.weights:
        tf_variable(weight).assign(before[var_path(weight)])


def test_dropout_noise_follows_from_the_step(batch):
    model = tiny_run.make_model()
    config = tiny_run.make_config("train.optimizer=sgd")
    stage = hparams.Stage(0, 0, 10, 1.0, 16, BATCH, 0.0, 0.0, 0.5)
    step = make_train_step(STRATEGY, model, Optimization(config, model), None, config, stage, 10)
    losses = [float(step(*batch, number, 0.0).loss) for number in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]
    assert model.get_layer("head_dropout").rate == 0.5


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_dropout_rates_are_checked(model, rate):
    with pytest.raises(ValueError, match=rf"dropout rate must be in \[0, 1\), got {rate}"):
        set_dropout(model, rate)
