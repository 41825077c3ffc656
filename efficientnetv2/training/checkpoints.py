"""Checkpoints with everything a run needs to go on where it stopped."""

import keras
import tensorflow as tf

from efficientnetv2.compat import tf_variable, var_path
from efficientnetv2.training.ema import WeightAverage
from hparams import UserError


class RunCheckpoint:
    """Weights, their average, optimizer state and step of a run, in `directory`.

    Weights and averages are saved under their paths, so that either Keras generation loads what
    the other saved; the optimizer's state belongs to the generation that wrote it.
    """

    def __init__(
        self,
        directory: str,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        average: WeightAverage | None,
        keep: int,
    ):
        self.saved_step = tf.Variable(0, dtype=tf.int64, trainable=False)
        states = enumerate(optimizer.variables)
        self.checkpoint = tf.train.Checkpoint(
            step=self.saved_step,
            weights={var_path(w): tf_variable(w) for w in model.weights},
            ema=dict(average.by_path) if average is not None else {},
            optimizer={f"{i}/{var_path(v)}": tf_variable(v) for i, v in states},
        )
        self.manager = tf.train.CheckpointManager(
            self.checkpoint, directory, max_to_keep=keep, checkpoint_name="ckpt"
        )

    def save(self, step: int) -> str:
        """Writes a checkpoint, prunes old ones and returns its path."""
        self.saved_step.assign(step)
        return self.manager.save(checkpoint_number=step)

    def restore(self) -> int:
        """Loads the newest checkpoint; returns its step, or 0 if there is none.

        Raises: UserError if it cannot be read or does not fit the run.
        """
        path = self.manager.latest_checkpoint
        if path is None:
            return 0
        try:
            self.checkpoint.restore(path).assert_consumed()
        except (tf.errors.OpError, AssertionError, IndexError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"cannot resume from {path}: {reason}; "
                "it is damaged or of another config: use another --model_dir or remove it"
            ) from error
        return int(self.saved_step.numpy())
