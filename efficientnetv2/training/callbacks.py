"""Training callbacks."""

import numpy as np

from efficientnetv2.hparams import Stage


class Callback:
    """Told of what happens in a run; a subclass overrides what it wants to know.

    Nothing that an observer does may change what the run computes.
    """

    def stage_begins(self, stage: Stage, images: np.ndarray, labels: np.ndarray) -> None:
        """The first batch of a stage, or the first after a resume; of each variant of a stage.

        `images` uint8 [B, S, S, 3], `labels` float32 [B, K].
        """

    def logged(self, step: int, stage: Stage, values: dict[str, float | None]) -> None:
        """The means of a window of training steps, as they go to metrics.jsonl."""

    def evaluated(self, step: int, stage: Stage, scores: dict, confusion) -> None:
        """An evaluation's scores; `confusion` int64 [K, K], rows are labels, or None."""
