"""The training steps between two records."""

import math

from efficientnetv2.training.guards import NotFinite
from efficientnetv2.training.run_log import Progress
from hparams import Stage


class Window:
    """Loss, accuracy and gradient norm since the last record; reads the device only when asked.

    What was read is sums, which a checkpoint keeps: a record does not depend on where a run was
    interrupted.
    """

    def __init__(self, progress: Progress):
        self.progress = progress
        self.restore({})

    def add(self, step: int, result, images: int, traced: bool) -> None:
        """Takes the `StepResult` of a step; `traced`: the step was traced, which says nothing of
        speed.
        """
        self._results.append((step, images, result))
        self._timed_images += images
        if traced:
            float(result.loss)  # Waits.
            self.start_timing()

    def start_timing(self) -> None:
        """Measures speed anew, after anything that was not training."""
        self._timed_images = 0
        self.progress.start_window()

    def read(self) -> None:
        """Adds up what the device has computed. Raises: NotFinite of the first step that is not."""
        results, self._results = self._results, []
        for step, images, result in results:
            loss, norm = float(result.loss), float(result.gradient_norm)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise NotFinite(step, loss, norm)
            self._sums["steps"] += 1
            self._sums["loss"] += loss
            self._sums["correct"] += int(result.correct)
            self._sums["images"] += images
            self._sums["gradient_norm"] = norm

    def close(self, stage: Stage, step: int) -> dict[str, float | None] | None:
        """Shows the progress, starts anew; returns the means, or None if no step was made.

        `stage`: of the last step, the variant that it drew. Raises: NotFinite as `read`.
        """
        self.read()
        sums, timed = self._sums, self._timed_images
        self._sums = _nothing()
        if not sums["steps"]:
            return None
        loss, accuracy = sums["loss"] / sums["steps"], sums["correct"] / sums["images"]
        speed = self.progress.update(stage, step, timed, loss, accuracy)
        self._timed_images = 0
        return {
            "loss": loss,
            "accuracy": accuracy,
            "gradient_norm": sums["gradient_norm"],
            "images_per_second": speed,
            "image_size": stage.image_size,
            "ram": stage.ram,
            "mixup_alpha": stage.mixup_alpha,
            "cutmix_alpha": stage.cutmix_alpha,
            "dropout_rate": stage.dropout_rate,
        }

    def state(self) -> dict:
        """The sums, for JSON, which keeps each bit of a float; call `read` before."""
        return dict(self._sums)

    def restore(self, state: dict) -> None:
        """Goes on from what `state` gave; from nothing with {}."""
        self._sums = {**_nothing(), **state}
        self._results = []
        self.start_timing()


def _nothing() -> dict:
    return {"steps": 0, "loss": 0.0, "correct": 0, "images": 0, "gradient_norm": 0.0}
