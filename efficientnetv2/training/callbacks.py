"""Training callbacks."""

import keras
import numpy as np

from efficientnetv2.hparams import Stage


class Callback:
    """Called while a run trains; subclass it and override the methods of interest.

    Methods are called by the process that writes the run (the chief, of several workers), in the
    order in which callbacks are given. Nothing that a callback does may change what the run
    computes; what a callback raises ends the run, which resumes from its last checkpoint.

    Attributes:
        model: the `keras.Model` that is trained; its weights are those of the last step.

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

        Also of each variant of a stage, where `train.schedule=random` mixes image sizes.

        Args:
            stage: its `index`, `image_size` in pixels, `batch_size`, `ram` (magnitude), ...
            images: uint8 [B, S, S, 3], augmented as they are trained on.
            labels: float32 [B, K], smoothed and mixed as they are trained on.
        """

    def on_log(self, step: int, stage: Stage, values: dict[str, float | None]) -> None:
        """Called when a line is added to metrics.jsonl: means over the steps since the last one.

        `values`: "loss", "accuracy", "learning_rate", "gradient_norm", "images_per_second", ...
        """

    def on_evaluate(
        self, step: int, stage: Stage, scores: dict[str, float | int], confusion: np.ndarray | None
    ) -> None:
        """Called after each evaluation on the split `minival`.

        Args:
            scores: "loss", "top1", "top5" (shares in [0, 1]) and "examples"; see `Evaluator`.
            confusion: int64 [K, K], rows are labels, columns predictions; None with several labels
                per image, or for more than 1,000 classes.
        """

    def on_train_end(self, scores: dict[str, float | int]) -> None:
        """Called when the run is complete, with what `train` returns."""
