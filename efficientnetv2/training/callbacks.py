"""Training callbacks."""

import keras
import numpy as np

from efficientnetv2.hparams import Stage


class Callback:
    """Base class of training callbacks; subclass it and override the methods of interest.

    Methods are called in the process that writes the run (the chief if there are several workers),
    in the order in which the callbacks are passed. A callback must not change what the run
    computes. An exception raised by a callback ends the run, which can be resumed from its last
    checkpoint.

    Attributes:
        model: the `keras.Model` being trained, with the weights of the last step.

    Example:

        class BestSoFar(effnet.Callback):
            best = 0.0

            def on_evaluate(self, step, stage, scores, confusion):
                self.best = max(self.best, scores["top1"])
    """

    model: keras.Model | None = None

    def set_model(self, model: keras.Model) -> None:
        """Called once, before the first step."""
        self.model = model

    def on_stage_begin(self, stage: Stage, images: np.ndarray, labels: np.ndarray) -> None:
        """Called with the first batch of a stage, or the first after a resume.

        With `train.schedule=random`, which mixes image sizes, it is called for each variant, too.

        Args:
            stage: its `index`, `image_size` in pixels, `batch_size`, `ram` (magnitude), ...
            images: uint8 [B, S, S, 3], augmented.
            labels: float32 [B, K], after Mixup and CutMix, before label smoothing.
        """

    def on_log(self, step: int, stage: Stage, values: dict[str, float | None]) -> None:
        """Called when a training record is added to metrics.jsonl.

        `values`: "loss", "accuracy", "learning_rate", "gradient_norm", "images_per_second", ...;
        loss and accuracy are means over the steps since the last record.
        """

    def on_evaluate(
        self, step: int, stage: Stage, scores: dict[str, float | int], confusion: np.ndarray | None
    ) -> None:
        """Called after each evaluation on the `minival` split.

        Args:
            scores: "loss", "top1", "top5" (fractions in [0, 1]) and "examples"; see `Evaluator`.
            confusion: int64 [K, K], rows are labels, columns predictions; None with several labels
                per image, or for more than 1,000 classes.
        """

    def on_train_end(self, scores: dict[str, float | int]) -> None:
        """Called when the run is complete; `scores` is the return value of `train`."""
