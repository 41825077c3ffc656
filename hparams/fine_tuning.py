"""What `train.ft_init_ckpt` brings along where the data set has no recipe of its own."""

# Safe for a folder of some hundred to some ten thousand photos; measured, see docs/fine_tuning.md.
# BatchNorm keeps its statistics up to `FEW_IMAGES`: `Config.freezes_batch_norm`.
FINE_TUNING = {
    "model": {"dropout_rate": 0.2, "dropout_base": 0.2, "survival_prob": 0.9},
    "train": {
        "batch_size": 32,
        "epochs": 15,
        "min_steps": 300,  # Some images only: still enough steps to move the classifier.
        "stages": 1,
        "isize": 1.0,  # The size of the evaluation, floored to a multiple of 16.
        "optimizer": "adamw",
        "lr_base": 0.0024,
        "lr_sched": "cosine",
        "lr_warmup_epoch": 1.0,
        "head_warmup_epoch": 1.0,
        "layer_lr_decay": 0.95,
        "weight_decay": 0.02,
        "label_smoothing": 0.1,
        "ema_decay": 0.9996,
        "gclip": 1.0,
    },
    "eval": {"best_metric": "top1"},
    "data": {
        "augname": "randaug",
        "op_set": "corrected",
        "ram_base": 5.0,
        "ram": 5.0,
        "ra_num_layers": 1,
        "mixup_alpha": 0.0,
        "cutmix_alpha": 0.0,
        "crop_area_min": 0.35,
    },
}
