"""The optimizers by name, and the one of the official code."""

import importlib.util
import warnings
from typing import NamedTuple

import keras
import tensorflow as tf

from efficientnetv2.compat import NADAM_WORKS, slot_index, tf_variable
from hparams import UserError, nearest


@keras.saving.register_keras_serializable("efficientnetv2")
class OfficialRMSprop(keras.optimizers.RMSprop):
    """RMSProp whose mean of squares starts at one, not at zero as in Keras.

    Starting at one keeps the first updates small; starting at zero makes them up to
    1 / sqrt(1 - rho) of the learning rate each, whatever the gradient.

    Source: official (TF1) RMSProp: decay 0.9, momentum 0.9, epsilon 0.001 inside the root.
    """

    def __init__(self, learning_rate=0.016, rho=0.9, momentum=0.9, epsilon=1e-3, **kwargs):
        # Keras 3 would number the names, and a checkpoint's keys with them.
        kwargs.setdefault("name", "official_rm_sprop")
        super().__init__(learning_rate, rho=rho, momentum=momentum, epsilon=epsilon, **kwargs)

    def build(self, var_list):
        built_before = getattr(self, "_velocities", None)
        super().build(var_list)
        if not built_before:
            for mean_square in self._velocities:
                variable = tf_variable(mean_square)
                variable.assign(tf.ones_like(variable))

    def update_step(self, gradient, variable, *learning_rate):
        """One kernel for the whole update of a weight, which is the official one's.

        Keras 2 finds the learning rate itself, Keras 3 passes it.
        """
        if not self._momentums:  # A momentum of 0 has no slots.
            return super().update_step(gradient, variable, *learning_rate)
        index = slot_index(self, variable)
        tensors = {
            "rho": self.rho,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "lr": learning_rate[0] if learning_rate else self.learning_rate,
        }
        tf.raw_ops.ResourceApplyRMSProp(
            var=variable.handle,
            ms=tf_variable(self._velocities[index]).handle,
            mom=tf_variable(self._momentums[index]).handle,
            grad=tf.convert_to_tensor(gradient),
            use_locking=True,
            **{name: tf.cast(value, variable.dtype) for name, value in tensors.items()},
        )


class _Made(NamedTuple):
    """How an optimizer is made: from the first of these libraries that has it."""

    in_keras: str | None  # The class in keras.optimizers.
    in_addons: str | None = None  # The class in tensorflow_addons.optimizers.
    settings: dict = {}  # "momentum" stands for `train.momentum`.


# What decays weights does so here, by `train.decoupled_weight_decay`, not in the optimizer.
_OPTIMIZERS = {
    "sgd": _Made("SGD"),
    "momentum": _Made("SGD", settings={"momentum": "momentum"}),
    "nesterov": _Made("SGD", settings={"momentum": "momentum", "nesterov": True}),
    "adam": _Made("Adam"),
    "adamw": _Made("Adam"),
    "adamax": _Made("Adamax"),
    "nadam": _Made("Nadam"),
    "adagrad": _Made("Adagrad"),
    "adadelta": _Made("Adadelta"),
    "adafactor": _Made("Adafactor"),
    "lion": _Made("Lion"),
    "lamb": _Made("Lamb", "LAMB"),
    "lazyadam": _Made(None, "LazyAdam"),
    "radam": _Made(None, "RectifiedAdam"),
    "novograd": _Made(None, "NovoGrad"),
    "yogi": _Made(None, "Yogi"),
    "adabelief": _Made(None, "AdaBelief"),
}
OPTIMIZERS = ("rmsprop", *_OPTIMIZERS)


def make_optimizer(name: str, momentum: float) -> keras.optimizers.Optimizer:
    """Returns a new optimizer; all but momenta are the defaults of the library that has it.

    `momentum`: of rmsprop, momentum and nesterov.
    Raises: UserError for an unknown name, or one that the installed stack lacks.
    Source: official names rmsprop, momentum, sgd and adam; the others are of Keras and of
    tensorflow-addons.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"unknown train.optimizer={name}{nearest(name, OPTIMIZERS)}")
    if name == "rmsprop":
        return OfficialRMSprop(momentum=momentum)
    made = _OPTIMIZERS[name]
    settings = {k: momentum if v == "momentum" else v for k, v in made.settings.items()}
    # Keras 3 would number the names, and a checkpoint's keys with them.
    return _class_of(name, made)(learning_rate=0.0, name=name, **settings)


def _class_of(name: str, made: _Made):
    if name == "nadam" and not NADAM_WORKS:
        raise UserError(
            "train.optimizer=nadam needs Keras 3 (Python 3.12 or later): that of Keras 2.15 counts "
            "a step once per weight; use train.optimizer=adam"
        )
    if made.in_keras and hasattr(keras.optimizers, made.in_keras):
        return getattr(keras.optimizers, made.in_keras)
    if made.in_addons and importlib.util.find_spec("tensorflow_addons"):
        with warnings.catch_warnings():
            message = r"\s*TensorFlow Addons \(TFA\) has ended development"
            warnings.filterwarnings("ignore", message, UserWarning)
            import tensorflow_addons
        return getattr(tensorflow_addons.optimizers, made.in_addons)
    raise UserError(
        f"train.optimizer={name} needs tensorflow-addons, which exists for TensorFlow 2.15 on "
        "Python 3.11 only; use train.optimizer=adam or another of Keras"
    )
