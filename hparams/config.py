"""Configuration of a run: one frozen, typed, validated tree of settings.

Keys have the names of the official code where it has such a setting (`train.lr_base`, `data.ram`,
`model.survival_prob`, ...); keys that we added are marked "Ours".
"""

import dataclasses
import math
import re
import types
import typing

from efficientnetv2.common.errors import UserError

DATA_SOURCES = ("shapes", "folder", "tfds", "tfrecord", "csv")
RECORD_LAYOUTS = ("imagenet", "imagenet21k")
EVAL_CROPS = ("v2", "v1", "whole")
RESIZE_METHODS = ("bilinear", "legacy_bicubic")
OP_SETS = ("official", "corrected")
POLICIES = ("randaug", "autoaug", "ra_aa")
FINE_TUNING_POLICIES = (
    "ft",
    "ft_cutout",
    "ft_autoaug",
    "ft_randaug",
    "ft_autoaug_randaug",
    "ft_autoaug_cutout",
    "ft_randaug_cutout",
    "ft_autoaug_randaug_cutout",
)
MIB = 2**20
SCHEDULES = ("paper", "official", "resize", "random", "fixed")
LR_SCHEDULES = ("exponential", "cosine", "linear", "constant")
LOSS_TYPES = ("softmax", "sigmoid", "custom", "focal", "sigmoid_focal")
PRECISIONS = ("float32", "bfloat16", "float16")
ACTIVATIONS = ("silu", "swish", "relu", "elu", "selu", "mish")
FEW_IMAGES = 20_000  # Up to this many, fine-tuning freezes BatchNorm.
BEST_METRICS = ("loss", "top1", "top5", "hit_at_1", "hit_at_5", "global_ap")
NORMALIZATIONS = ("centered", "inception", "imagenet")


def setting(default, *, least=None, above=None, most=None, below=None, choices=None):
    """Returns a dataclass field with bounds on its value."""
    bounds = {"least": least, "above": above, "most": most, "below": below, "choices": choices}
    return dataclasses.field(default=default, metadata=bounds)


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """One split; values that are None are those of the data source."""

    num_images: int | None = setting(None, least=1)
    tfds_split: str | None = None
    files: str | None = None  # TFRecord or CSV files: a glob in `data_dir`.
    slice: str | None = None  # Of the sorted files, in Python syntax: "20:".


@dataclasses.dataclass(frozen=True)
class SplitsConfig:
    """`minival` is evaluated while training, `eval` at the end."""

    train: SplitConfig = SplitConfig()
    minival: SplitConfig = SplitConfig()
    eval: SplitConfig = SplitConfig()


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Data source, preprocessing and augmentation."""

    ds_name: str = setting("shapes", choices=DATA_SOURCES)
    data_dir: str | None = None
    tfds_name: str | None = None
    record_layout: str = setting("imagenet", choices=RECORD_LAYOUTS)  # Ours.
    multiclass: bool = False  # Several labels per image, or none.
    label_file: str | None = None  # Ours: class names, one per line, in the order of the labels.
    num_classes: int | None = setting(None, least=2)  # None: as many as the source has.
    splits: SplitsConfig = SplitsConfig()
    eval_fraction: float = setting(0.2, above=0, below=1)  # Ours: held out if no split is given.
    class_balance: str | None = setting(None, choices=("sample", "loss"))  # Ours.
    on_error: str = setting("stop", choices=("stop", "skip"))  # Ours: on an unreadable image.
    max_bad_share: float = setting(0.01, least=0, below=1)  # Ours: on_error=skip fails above it.
    max_pixels: int = setting(100_000_000, least=1)  # Ours: larger images count as unreadable.
    memory_mb: int = setting(1024, least=1)  # Ours: MiB that shuffling may use.
    fast_decode: bool = False  # Ours: scaled decoding of large JPEGs; pixel error 2 to 7 levels.
    ibase: int | None = setting(128, least=1)  # Pixels in the first stage; None: half the last.
    augname: str | None = setting("randaug", choices=(*POLICIES, *FINE_TUNING_POLICIES))
    op_set: str = setting("official", choices=OP_SETS)  # Ours: bug for bug, or fixed.
    ra_num_layers: int = setting(2, least=1)
    ram: float = setting(15.0, least=0, most=30)  # RandAugment magnitude in the last stage.
    ram_base: float = setting(5.0, least=0, most=30)  # Ours: in the first stage.
    translate_const: float | None = setting(None, least=0)  # Ours, like the next: pixels at
    cutout_const: float | None = setting(None, least=0)  # magnitude 10. None: the policy's default.
    mixup_alpha: float = setting(0.0, least=0)  # In the last stage.
    mixup_base: float = setting(0.0, least=0)  # Ours: in the first stage.
    cutmix_alpha: float = setting(0.0, least=0)  # In the last stage.
    cutmix_base: float = setting(0.0, least=0)  # Ours: in the first stage.
    extra_augment: str | None = None  # Ours: see datasets/augment/keras_cv.py.
    crop_area_min: float = setting(0.05, above=0, most=1)  # Ours: share of the image; 1: no crop.
    eval_crop: str = setting("v2", choices=EVAL_CROPS)  # Ours: see datasets/preprocess.py.
    resize_method: str = setting("bilinear", choices=RESIZE_METHODS)  # Ours.


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length, stages and optimization of training."""

    batch_size: int = setting(4096, least=1)  # Global, over all replicas.
    stage_batch: str = setting(
        "same", choices=("same", "memory")
    )  # Ours: see `efficientnetv2.hparams.stages`.
    epochs: int = setting(350, least=1)
    min_steps: int = setting(0, least=0)
    stages: int = setting(4, least=1)
    schedule: str = setting("paper", choices=SCHEDULES)  # Ours.
    adaptive_regularization: bool | None = None  # Ours: rising strength; None: per `schedule`.
    isize: int | float = setting(300, above=0)  # Pixels; up to 16: ratio to `eval.isize`.
    label_smoothing: float = setting(0.1, least=0, below=1)
    loss_type: str = setting("softmax", choices=LOSS_TYPES)
    focal_gamma: float = setting(2.0, least=0)  # Ours.
    optimizer: str = "rmsprop"  # See `efficientnetv2.training.optimizer`.
    momentum: float = setting(0.9, least=0, below=1)  # For rmsprop, momentum and nesterov.
    lr_base: float = setting(0.016, above=0)  # For a batch of 256.
    lr_sched: str = setting("exponential", choices=LR_SCHEDULES)
    lr_decay_epoch: float = setting(2.4, above=0)
    lr_decay_factor: float = setting(0.97, above=0, most=1)
    lr_warmup_epoch: float = setting(5.0, least=0)
    lr_min: float = setting(0.0, least=0)
    layer_lr_decay: float = setting(1.0, above=0, most=1)  # Ours: per block, from the head down.
    weight_decay: float = setting(1e-5, least=0)
    weight_decay_inc: float = setting(0.0, least=0)  # Relative increase over the run.
    weight_decay_exclude: str = "bias|gamma|beta"  # Regular expression searched in weight paths.
    decoupled_weight_decay: bool = False  # Ours: as in AdamW; false: L2 loss, as official.
    gclip: float = setting(0.0, least=0)  # Norm of each gradient, then global norm; 0: off.
    accumulate_steps: int = setting(1, least=1)  # Ours: micro-batches per step.
    varsexp: str | None = None  # Train only weights whose path matches.
    freeze: str | None = None  # Ours: train no weights whose path matches.
    freeze_bn: bool | None = None  # Ours: freeze BatchNorm statistics; None: if few images.
    head_warmup_epoch: float = setting(0.0, least=0)  # Ours: train only the classifier first.
    ft_init_ckpt: str | None = None  # Initial weights: any loadable file, or a name.
    ft_init_ema: bool = True  # Use their average, if there is one.
    ema_decay: float = setting(0.9999, least=0, below=1)  # 0 disables averaging.
    precision: str = setting("float32", choices=PRECISIONS)  # Ours: of activations.
    jit_compile: bool | None = None  # Ours: XLA; None: whichever was measured to be faster.
    on_nan: str = setting("stop", choices=("stop", "rollback"))  # Ours: on a non-finite loss.
    seed: int = setting(0, least=0, below=2**30)  # Ours: determines every random draw.


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Network. A coefficient of None means the value of the named model."""

    model_name: str = "efficientnetv2-b0"
    width_coefficient: float | None = setting(None, above=0)
    depth_coefficient: float | None = setting(None, above=0)
    stem_stride: int = setting(2, choices=(1, 2))  # Ours: 1 for images of 64 pixels or less.
    act_fn: str = setting("silu", choices=ACTIVATIONS)
    output_stride: int | None = setting(None, choices=(8, 16, 32))  # Ours, like the next two.
    normalization: str | None = setting(None, choices=NORMALIZATIONS)
    padding: str | None = setting(None, choices=("same", "symmetric"))
    bn_type: str | None = setting(None, choices=("gn",))  # None: batch, "gn": group norm.
    gn_groups: int = setting(8, least=1)
    bn_momentum: float = setting(0.9, least=0, below=1)
    bn_epsilon: float = setting(1e-3, above=0)
    dropout_rate: float = setting(0.2, least=0, below=1)  # In the last stage.
    dropout_base: float = setting(0.1, least=0, below=1)  # Ours: in the first stage.
    survival_prob: float = setting(0.8, above=0, most=1)


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Evaluation; the batch size affects the speed, never the result."""

    batch_size: int = setting(64, least=1)
    isize: int = setting(384, least=1)  # Pixels.
    every_epochs: int = setting(1, least=1)  # Ours: how often `traineval` evaluates.
    at_end: bool = True  # Ours: whether `traineval` ends with the split `eval`.
    best_metric: str | None = setting(None, choices=BEST_METRICS)  # Ours: selects the best.
    patience: int | None = setting(None, least=1)  # Ours: evaluations without improvement.


@dataclasses.dataclass(frozen=True)
class RuntimeConfig:
    """Settings that affect how a run is observed, never what it computes."""

    log_step_count_steps: int = setting(64, least=1)
    checkpoint_steps: int = setting(1000, least=1)  # Ours.
    keep_checkpoint_max: int = setting(5, least=1)
    data_service: str | None = None  # Ours: "grpc://HOST:PORT" of a tf.data dispatcher.


@dataclasses.dataclass(frozen=True)
class Config:
    """Configuration of a whole run. Build one with `hparams.get_config`."""

    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    data: DataConfig = DataConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @property
    def train_size(self) -> int:
        """Image size of the last stage in pixels.

        Source: official code: `train.isize` up to 16 is a ratio to `eval.isize`, floored to a
        multiple of 16.
        """
        if self.train.isize > 16:
            return int(self.train.isize)
        return int(self.eval.isize * self.train.isize) // 16 * 16

    @property
    def freezes_batch_norm(self) -> bool:
        """Whether BatchNorm keeps its statistics: by default when fine-tuning on few images."""
        if self.train.freeze_bn is not None:
            return self.train.freeze_bn
        images = self.data.splits.train.num_images
        return self.train.ft_init_ckpt is not None and (images or 0) <= FEW_IMAGES

    @property
    def adapts_regularization(self) -> bool:
        """Whether regularization rises over the stages; by default as in the schedule's source."""
        if self.train.adaptive_regularization is not None:
            return self.train.adaptive_regularization
        return self.train.schedule in ("paper", "official")


def value_types(hint) -> tuple[type, ...]:
    """Returns the plain types of an annotation such as `int | None`."""
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def check_value(key: str, field: dataclasses.Field, value) -> None:
    """Checks a value. Raises: UserError if it has the wrong type or is outside the bounds."""
    allowed = value_types(field.type)
    if type(value) not in allowed and not (float in allowed and type(value) is int):
        names = " or ".join("null" if t is type(None) else t.__name__ for t in allowed)
        raise UserError(f"{key} must be of type {names}, got {value!r}")
    if value is None or not field.metadata:
        return
    bound = field.metadata
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key} must be finite, got {value!r}")
    if bound["choices"] is not None and value not in bound["choices"]:
        choices = ", ".join(map(str, bound["choices"]))
        raise UserError(f"{key} must be one of {choices}, got {value!r}")
    for name, broken, words in (
        ("least", lambda limit: value < limit, "at least"),
        ("above", lambda limit: value <= limit, "above"),
        ("most", lambda limit: value > limit, "at most"),
        ("below", lambda limit: value >= limit, "below"),
    ):
        if bound[name] is not None and broken(bound[name]):
            raise UserError(f"{key} must be {words} {bound[name]}, got {value!r}")


def _ramps(config: Config) -> list[tuple[str, float, str, float]]:
    """Returns what rises over the stages: key and value of the first stage, then of the last."""
    data, model, train = config.data, config.model, config.train
    if not config.adapts_regularization or train.stages == 1:
        return []
    ramps = [
        ("data.ram_base", data.ram_base, "data.ram", data.ram),
        ("data.mixup_base", data.mixup_base, "data.mixup_alpha", data.mixup_alpha),
        ("data.cutmix_base", data.cutmix_base, "data.cutmix_alpha", data.cutmix_alpha),
    ]
    if train.schedule != "official":  # "official" keeps dropout constant.
        dropout = ("model.dropout_base", model.dropout_base)
        ramps.append((*dropout, "model.dropout_rate", model.dropout_rate))
    return ramps if data.augname and "ra" in data.augname else ramps[1:]


def check_config(config: Config) -> Config:
    """Checks constraints between fields; returns `config`.

    Raises: UserError naming the keys that contradict each other.
    """
    size, base = config.train_size, config.data.ibase
    if size < 1:
        raise UserError(
            f"train.isize={config.train.isize} of eval.isize={config.eval.isize} gives an image of "
            f"{size} pixels; a value of at most 16 is a ratio, write pixels above 16"
        )
    one_size = config.train.schedule == "fixed" or config.train.stages == 1
    if base is not None and base > size and not one_size:
        raise UserError(
            f"data.ibase={base} must be at most the train size of {size} pixels; "
            "lower data.ibase or raise train.isize"
        )
    for base_key, base_value, end_key, end in _ramps(config):
        if base_value > end:
            raise UserError(
                f"{base_key}={base_value} must be at most {end_key}={end}: strengths rise from "
                f"stage to stage; lower {base_key} or raise {end_key}"
            )
    _check_train(config)
    if config.data.ds_name == "folder" and config.data.data_dir is None:
        raise UserError("data.data_dir is needed for a folder of images; add --data_dir=PATH")
    if config.data.ds_name == "tfds" and config.data.tfds_name is None:
        raise UserError("data.tfds_name is needed; write --dataset_cfg=tfds:NAME")
    return config


def _check_train(config: Config) -> None:
    """Checks the training settings. Raises: UserError if they contradict each other."""
    train = config.train
    if train.schedule == "random" and train.stage_batch == "memory":
        raise UserError(
            "train.stage_batch=memory needs stages of one size each, which train.schedule=random "
            "does not have; drop one"
        )
    if train.batch_size % train.accumulate_steps:
        raise UserError(
            f"train.batch_size={train.batch_size} must be a multiple of "
            f"train.accumulate_steps={train.accumulate_steps}"
        )
    if config.eval.patience is not None and config.eval.best_metric is None:
        raise UserError("eval.patience needs eval.best_metric, such as eval.best_metric=top1")
    for key in ("weight_decay_exclude", "varsexp", "freeze"):
        pattern = getattr(train, key)
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise UserError(f"train.{key}={pattern!r} is no regular expression: {error}") from error
