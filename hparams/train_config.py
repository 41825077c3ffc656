"""How a run trains: `train.*` of a config."""

import dataclasses

from hparams.setting import setting

SCHEDULES = ("paper", "official", "resize", "random", "fixed")
LR_SCHEDULES = ("exponential", "cosine", "linear", "constant")
LOSS_TYPES = ("softmax", "sigmoid", "custom", "focal", "sigmoid_focal")
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length, stages and optimisation."""

    batch_size: int = setting(4096, least=1)  # Global, over all replicas.
    stage_batch: str = setting("same", choices=("same", "memory"))  # Ours: see `hparams.stages`.
    epochs: int = setting(350, least=1)
    min_steps: int = setting(0, least=0)
    stages: int = setting(4, least=1)
    schedule: str = setting("paper", choices=SCHEDULES)  # Ours.
    adaptive_regularization: bool | None = None  # Ours: strengths rise; None: as `schedule`.
    isize: int | float = setting(300, above=0)  # Pixels; up to 16 a ratio to `eval.isize`.
    label_smoothing: float = setting(0.1, least=0, below=1)
    loss_type: str = setting("softmax", choices=LOSS_TYPES)
    focal_gamma: float = setting(2.0, least=0)  # Ours.
    optimizer: str = "rmsprop"  # See `efficientnetv2.training.optimizers`.
    momentum: float = setting(0.9, least=0, below=1)  # Of rmsprop, momentum and nesterov.
    lr_base: float = setting(0.016, above=0)  # For a batch of 256.
    lr_sched: str = setting("exponential", choices=LR_SCHEDULES)
    lr_decay_epoch: float = setting(2.4, above=0)
    lr_decay_factor: float = setting(0.97, above=0, most=1)
    lr_warmup_epoch: float = setting(5.0, least=0)
    lr_min: float = setting(0.0, least=0)
    layer_lr_decay: float = setting(1.0, above=0, most=1)  # Ours: per block, from the head down.
    weight_decay: float = setting(1e-5, least=0)
    weight_decay_inc: float = setting(0.0, least=0)  # By this share of itself over the run.
    weight_decay_exclude: str = "bias|gamma|beta"  # A pattern found in paths of weights.
    decoupled_weight_decay: bool = False  # Ours: as AdamW; false: L2 in the loss, as officially.
    gclip: float = setting(0.0, least=0)  # Norm of each gradient, then of all; 0: no clipping.
    accumulate_steps: int = setting(1, least=1)  # Ours: parts of a batch, one after the other.
    varsexp: str | None = None  # Train only weights whose path matches.
    freeze: str | None = None  # Ours: train no weights whose path matches.
    freeze_bn: bool | None = None  # Ours: BatchNorm keeps its statistics; None: if few images.
    head_warmup_epoch: float = setting(0.0, least=0)  # Ours: at first the classifier alone.
    ft_init_ckpt: str | None = None  # Weights to start from: any file that loads, or a name.
    ft_init_ema: bool = True  # Their average, if there is one.
    ema_decay: float = setting(0.9999, least=0, below=1)  # 0 turns the average off.
    precision: str = setting("float32", choices=PRECISIONS)  # Ours: of activations.
    jit_compile: bool | None = None  # Ours: XLA; None: what was measured to be faster.
    on_nan: str = setting("stop", choices=("stop", "rollback"))  # Ours: a loss that is no number.
    seed: int = setting(0, least=0, below=2**30)  # Ours: every random draw follows from it.
