"""Does a file of another format still say what the model says?"""

import dataclasses
from collections.abc import Callable

import numpy as np

from export.samples import MAX_DIFFERENCE

# Where weights or activations are rounded. Google reports 0.8 to 1.6 points less accuracy for
# EfficientNetV2 in 8 bits, so a point is what good rounding costs. Agreement also counts images
# that lie between two classes: a B0 that lost 0.1 points on CIFAR-10 agreed on 97%.
MAX_ACCURACY_LOSS, MIN_AGREEMENT = 0.01, 0.95
BATCH = 16

Classify = Callable[[np.ndarray], np.ndarray]


class ExportMismatch(RuntimeError):
    """The export answers differently from the model that it was made of."""


@dataclasses.dataclass(frozen=True)
class Parity:
    """How a file compares with its model on the same images.

    `max_difference`: the greatest of a score, NaN if one is. `agreement`: the share of images with
    the same best class. The accuracies are None where labels are not known.
    """

    images: int
    max_difference: float
    agreement: float
    accuracy: float | None = None
    model_accuracy: float | None = None

    def __str__(self) -> str:
        text = (
            f"scores differ by at most {self.max_difference:.2g}, "
            f"same best class for {self.agreement:.1%} of {self.images} images"
        )
        if self.accuracy is None:
            return text
        return f"{text}, top-1 {self.accuracy:.1%} (model: {self.model_accuracy:.1%})"


def compare(
    classify: Classify,
    scores_of_model: Classify,
    images: np.ndarray,
    labels: np.ndarray | None = None,
) -> Parity:
    """Asks both about the same images, in batches.

    Shapes: both functions: float32 [N, S, S, 3] in [0, 255] -> [N, K]; images the same; labels
    integers [N].
    """
    ours, models = (
        np.concatenate(
            [np.asarray(ask(images[i : i + BATCH])) for i in range(0, len(images), BATCH)]
        )
        for ask in (classify, scores_of_model)
    )
    best, model_best = ours.argmax(-1), models.argmax(-1)
    accuracies = {}
    if labels is not None:
        accuracies["accuracy"] = float(np.mean(best == labels))
        accuracies["model_accuracy"] = float(np.mean(model_best == labels))
    difference = float(np.max(np.abs(ours - models)))
    agreement = float(np.mean(best == model_best))
    return Parity(len(images), difference, agreement, **accuracies)


def check(parity: Parity, name: str, *, quantised: bool) -> list[str]:
    """Returns lines of warning about a rounded format; a float32 one is right or wrong.

    Raises: ExportMismatch if a score is not finite, or differs by more than 1e-4 without rounding.
    """
    if not np.isfinite(parity.max_difference):
        raise ExportMismatch(f"{name} gives scores that are not finite")
    if not quantised:
        if parity.max_difference > MAX_DIFFERENCE:
            raise ExportMismatch(
                f"{name} differs from the model by {parity.max_difference} in a score"
            )
        return []
    lines = []
    if parity.agreement < MIN_AGREEMENT:
        lines.append(
            f"{name} names the model's class for {parity.agreement:.1%} of {parity.images} images "
            f"only; below {MIN_AGREEMENT:.0%} measure its accuracy before you use it"
        )
    if parity.accuracy is not None:
        loss = parity.model_accuracy - parity.accuracy
        if loss > MAX_ACCURACY_LOSS + 1e-9:  # One image of a hundred is a point.
            lines.append(
                f"{name} loses {100 * loss:.1f} points of accuracy on {parity.images} images; "
                "more varied examples, or a format with float activations, lose less"
            )
    return lines
