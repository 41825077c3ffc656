"""Starting weights of a run: `train.ft_init_ckpt`."""

import dataclasses
import os

import keras

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams import CONFIG_FILE
from efficientnetv2.network.compat import tf_variable, var_path
from efficientnetv2.network.keras_models import PREFIX, build_keras_model
from efficientnetv2.training.run_dir import open_run
from efficientnetv2.weights.load import assign, read_weights
from efficientnetv2.weights.resolve import open_weights
from efficientnetv2.weights.stored import Stored

# Settings of a run that define its network and preprocessing.
_OF_A_RUN = (
    "model.width_coefficient",
    "model.depth_coefficient",
    "model.stem_stride",
    "model.act_fn",
    "model.output_stride",
    "model.normalization",
    "model.padding",
    "model.bn_type",
    "model.gn_groups",
    "model.bn_epsilon",
    "eval.isize",
    "data.eval_crop",
    "data.resize_method",
)


@dataclasses.dataclass(frozen=True)
class StartingWeights:
    """Weights to start a run from. `settings`: the config settings that they imply.

    Calling it loads them into a model; a classifier for another number of classes stays random.
    """

    model_name: str
    settings: dict
    stored: Stored | None = None  # None for a Keras architecture, whose weights Keras reads.
    path: str = ""

    def __call__(self, model: keras.Model) -> str:
        """Loads the weights into `model`; returns a description of what was loaded.

        Raises: UserError if they do not fit.
        """
        if self.stored is None:
            return _load_by_library(model, self.model_name, self.path)
        own = tuple(model.get_layer("classifier").kernel.shape)
        kernel = _classifier_kernel(self.stored, model)
        but = () if kernel == own else ("classifier",)
        report = assign(model, self.stored, but=but)
        average = " (averaged)" if report.used_ema else ""
        text = f"{len(report.loaded)} {report.format} weights{average} from {report.source}"
        changes = "".join(f"; {change}" for change in report.adapted)
        return f"{text}{changes}; {_classifier_text(not but, own[-1])}"


def open_starting_weights(model_name: str, path: str, use_ema: bool = True) -> StartingWeights:
    """Reads `train.ft_init_ckpt`: published weights by name, a run, or any supported file.

    Raises: UserError if it cannot be read, or is a run of another network.
    """
    if os.path.exists(os.path.join(path, CONFIG_FILE)):
        return _of_run(model_name, path, use_ema)
    if model_name.startswith(PREFIX):
        return StartingWeights(model_name, {}, path=path)
    opened = open_weights(model_name, path, use_ema)
    settings = {k: v for k, v in opened.settings.items() if k != "data.num_classes"}
    return StartingWeights(model_name, settings, opened.stored)


def _of_run(model_name: str, path: str, use_ema: bool) -> StartingWeights:
    config, _ = open_run(path)
    name = config.model.model_name
    same_file = os.path.basename(name) == "architecture.json" and model_name.endswith(".json")
    if name != model_name and not same_file:
        raise UserError(
            f"train.ft_init_ckpt={path} is a run of {name}; give --model_name={name}, or other "
            f"weights for {model_name}"
        )
    settings = {}
    for key in _OF_A_RUN:
        section, field = key.split(".")
        settings[key] = getattr(getattr(config, section), field)
    return StartingWeights(model_name, settings, read_weights(path, use_ema))


def _classifier_kernel(stored: Stored, model: keras.Model) -> tuple[int, ...] | None:
    """Returns the stored classifier kernel's shape in this project's layout, None if absent."""
    path = "classifier/kernel"
    name = stored.names(model).get(path)
    if name not in stored.arrays:
        return None
    return tuple(stored.to_ours(path, stored.arrays[name]).shape)


def _classifier_text(loaded: bool, classes: int) -> str:
    if loaded:
        return f"the classifier too, since it has {classes} classes as the data"
    return f"the classifier for {classes} classes starts at random"


def _load_by_library(model: keras.Model, model_name: str, path: str) -> str:
    """Copies the weights of a Keras architecture from a model that Keras builds with them."""
    donor = build_keras_model(
        model_name,
        num_classes=model.output_shape[-1],
        weights=path,
    )
    own = {var_path(w): w for w in model.weights}
    copied = 0
    for weight in donor.weights:
        if not var_path(weight).startswith("classifier/"):
            tf_variable(own[var_path(weight)]).assign(tf_variable(weight))
            copied += 1
    classes = model.output_shape[-1]
    return f"{copied} weights of {model_name} from {path}; {_classifier_text(False, classes)}"
