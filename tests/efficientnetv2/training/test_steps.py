"""The training step's loss and gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_run

import hparams
from efficientnetv2 import build_model
from efficientnetv2.compat import tf_variable, var_path
from efficientnetv2.training.ema import WeightAverage
from efficientnetv2.training.losses import make_loss
from efficientnetv2.training.optimization import Optimization
from efficientnetv2.training.precision import policy_scope
from efficientnetv2.training.steps import make_train_step, set_dropout
from hparams import UserError

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


def two_replicas():
    # Collective operations would mix up those of one strategy with those of the next.
    reduction = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=reduction)


class Run:
    """A network with noise and its steps on the same batch."""

    def __init__(self, overrides="", strategy=STRATEGY, batch=8):
        config = tiny_run.make_config(f"model.dropout_rate=0.2,{overrides}")
        self.strategy, self.batch = strategy, batch
        stage = hparams.make_stages(config)[0]
        keras.utils.set_random_seed(1)
        with strategy.scope():
            with policy_scope(config.train.precision):
                several = strategy.num_replicas_in_sync > 1
                self.model = tiny_run.make_model(several)
            self.optimization = Optimization(config, self.model)
            self.average = WeightAverage(self.model, 0.9)
        self.train_step = make_train_step(
            strategy, self.model, self.optimization, self.average, config, stage, 12
        )

    def step(self, number=0, rate=0.1, **changes):
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (self.batch, 17, 17, 3), dtype=np.uint8)
        label = rng.dirichlet(np.ones(tiny_run.CLASSES), self.batch).astype(np.float32)
        examples = {"image": image}, {"label": changes.get("label", label)}
        data = tf.data.Dataset.from_tensors(examples).unbatch().batch(self.batch)
        batches = iter(self.strategy.experimental_distribute_dataset(data))
        result = self.train_step(*next(batches), number, rate)
        return {name: np.asarray(value) for name, value in result._asdict().items()}

    def numbers(self):
        """Weights and their averages."""
        found = {var_path(w): tf_variable(w).numpy() for w in self.model.weights}
        averages = {f"ema/{k}": v.numpy() for k, v in self.average.by_path.items()}
        return found | averages

    def state(self):
        return {key: variable.numpy() for key, variable in self.optimization.variables.items()}


def assert_close(mine, theirs, rtol=1e-4, atol=1e-5):
    """Variances of one replica may have Bessel's correction, those of several have none."""
    assert mine.keys() == theirs.keys()
    for path, value in mine.items():
        rtol = max(rtol, 6e-3) if "variance" in path else rtol
        np.testing.assert_allclose(value, theirs[path], rtol=rtol, atol=atol, err_msg=path)


def moved(before, after):
    return {path for path in before if (before[path] != after[path]).any()}


ALL_AT_ONCE = (
    "train.freeze_bn=true,train.gclip=0.03,train.accumulate_steps=2,train.layer_lr_decay=0.7,"
    "train.decoupled_weight_decay=true,train.weight_decay=0.1,train.optimizer=nesterov"
)


@pytest.mark.parametrize("settings", ["train.weight_decay=0.1", ALL_AT_ONCE])
def test_replicas_do_what_one_does(settings):
    one, two = Run(settings), Run(settings, two_replicas())
    start = one.numbers()
    for number in (0, 1):
        found, expected = two.step(number, 0.01), one.step(number, 0.01)
        assert_close(found, expected)
        assert expected["gradient_norm"] > 0.05
    assert_close(two.numbers(), one.numbers())
    weights = {path for path in start if not path.startswith("ema/")}
    frozen = {path for path in start if "_bn/" in path} if "freeze" in settings else set()
    for run in (one, two):
        assert moved(start, run.numbers()) & weights == weights - frozen


@pytest.mark.parametrize("strategy", [None, two_replicas])
def test_batch_norm_sees_each_part_of_an_accumulated_step(strategy):
    """Its statistics move once per part: they keep 0.9 * 0.9 of the old ones."""
    run = Run("train.accumulate_steps=2", strategy() if strategy else STRATEGY)
    run.model.get_layer("stem_bn").moving_mean.assign([1e4] * 8)
    run.step()
    moving_mean = run.numbers()["stem_bn/moving_mean"]
    np.testing.assert_allclose(moving_mean, 0.81e4, rtol=1e-2)


def test_accumulated_parts_add_up_to_one_pass():
    """Noise included, which follows from the place in the whole batch."""
    settings = "train.freeze_bn=true,train.weight_decay=0.1,train.accumulate_steps="
    whole, parts = Run(settings + "1"), Run(settings + "4")
    assert_close(parts.step(), whole.step())
    assert_close(parts.numbers(), whole.numbers())


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


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_step_in_half_precision_agrees_with_float32(precision):
    exact, half = Run(), Run(f"train.precision={precision}")
    two = Run(f"train.precision={precision}", two_replicas())
    start = exact.numbers()
    expected = exact.step()
    for run in (half, two):
        found = run.step()
        assert found["loss"].dtype == np.float32
        assert found["loss"] == pytest.approx(expected["loss"], rel=0.01)
        assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=0.1)
        for path, value in exact.numbers().items():
            mine = run.numbers()[path]
            assert mine.dtype == np.float32
            change, own = value - start[path], mine - start[path]
            assert np.linalg.norm(own - change) < 0.25 * np.linalg.norm(change) + 1e-3, path
    assert half.model(tf.zeros([1, 17, 17, 3], tf.uint8)).dtype == tf.float32
    assert half.model.get_layer("blocks_1").compute_dtype == precision


@pytest.mark.parametrize("strategy", [None, pytest.param(two_replicas, marks=pytest.mark.slow)])
def test_an_overflow_in_float16_changes_the_scale_alone(strategy):
    run = Run("train.precision=float16", strategy() if strategy else STRATEGY)
    run.step()
    before, state = run.numbers(), run.state()
    scale = run.optimization.loss_scale.scale
    scale.assign(2.0**100)
    found = run.step(1)
    assert np.isfinite(found["loss"])
    assert found["gradient_norm"] == 0
    assert not moved(before, run.numbers())
    changed = moved(state, run.state())
    assert {key for key in changed if "rate" not in key} == {
        "loss_scale/scale",
        "loss_scale/finite_steps",
    }
    assert scale.numpy() == 2.0**99
    scale.assign(2.0**10)
    assert run.step(1)["gradient_norm"] > 0
    assert moved(before, run.numbers()) == set(before)
    # Where the scale is not at fault, the norm says that something is wrong.
    scale.assign(1.0)
    label = np.full((run.batch, tiny_run.CLASSES), np.nan, np.float32)
    assert not np.isfinite(run.step(2, label=label)["gradient_norm"])


def test_compiled_steps_agree_and_drop_the_same():
    plain, compiled = Run(), Run("train.jit_compile=true")
    for number in (0, 1):
        assert_close(compiled.step(number, 0.01), plain.step(number, 0.01), rtol=1e-3)
    assert_close(compiled.numbers(), plain.numbers(), rtol=1e-2, atol=1e-4)


def test_steps_are_compiled_on_replicas_without_common_statistics():
    settings = "train.freeze_bn=true,train.jit_compile="
    plain, compiled = (Run(f"{settings}{on}", two_replicas()) for on in ("false", "true"))
    assert_close(compiled.step(), plain.step(), rtol=1e-3)
    with pytest.raises(UserError, match="^train.jit_compile=true cannot compile BatchNorm over"):
        Run("train.jit_compile=true", two_replicas())


def test_only_the_classifier_learns_while_the_head_warms_up():
    run = Run("train.head_warmup_epoch=1")  # Three steps.
    before = run.numbers()
    for number in (0, 2):
        run.step(number)
        after = run.numbers()
        weights = {path for path in moved(before, after) if not path.startswith("ema/")}
        assert weights == {"classifier/kernel", "classifier/bias"}
        for path in (path for path in before if "classifier" not in path):
            np.testing.assert_allclose(after[path], before[path], rtol=1e-6, err_msg=path)
    run.step(3)
    assert moved(before, run.numbers()) == set(before)
    assert all(weight.trainable for weight in run.model.trainable_weights)


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(UserError, match="^a batch of 8 must be a multiple of 16: 2 replicas .*=8"):
        Run("train.accumulate_steps=8", two_replicas())


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
