"""Early termination: stop signals and non-finite losses."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence

from efficientnetv2.common.errors import UserError

EXIT_STOPPED = 75  # Exit status of a run that was asked to stop, and saved: EX_TEMPFAIL.
MOST_NAMES = 8  # In one line.


class TrainingStopped(Exception):
    """The run was asked to stop and has saved; the same command resumes it."""

    def __init__(self, step: int):
        super().__init__(f"stopped at step {step}")
        self.step = step


class StopRequested(Exception):
    """A signal came where work can be broken off."""


class NotFinite(Exception):
    """The loss or the norm of the gradient is NaN or infinite, at a step."""

    def __init__(self, step: int, loss: float, gradient_norm: float):
        super().__init__(f"the loss is {loss}, the gradient's norm {gradient_norm}")
        self.step, self.loss, self.gradient_norm = step, loss, gradient_norm


class StopSignals:
    """Inside, SIGTERM and the first SIGINT only ask to stop; the second SIGINT interrupts.

    In a thread that is not the main one it does nothing: Python delivers signals there only.
    """

    def __init__(self):
        self.requested = False
        self._breaks_off = False
        self._before: dict = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._asked) or signal.SIG_DFL
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @contextlib.contextmanager
    def breaking_off(self) -> Iterator[None]:
        """Inside, a request to stop raises StopRequested at once."""
        self._breaks_off = True
        try:
            if self.requested:
                raise StopRequested
            yield
        finally:
            self._breaks_off = False

    def _asked(self, number: int, frame) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])
        first, self.requested = not self.requested, True
        if first:
            again = "; once more: at once" if number == signal.SIGINT else ""
            text = f"\n{signal.Signals(number).name}: saving after this step{again}\n"
            os.write(2, text.encode())  # A print that is under way must not be entered again.
        if self._breaks_off:
            self._breaks_off = False
            raise StopRequested


def not_finite_error(
    error: NotFinite, rate: float, examples: Sequence[str], checkpoint: str | None, advice: str
) -> UserError:
    """Returns what to tell of a step that is not finite.

    `rate`: its learning rate; `examples`: names of its batch, if they are known; `checkpoint`: the
    path of the last good one.
    """
    shown = ", ".join(examples[:MOST_NAMES])
    if len(examples) > MOST_NAMES:
        shown += f" and {len(examples) - MOST_NAMES} more"
    batch = f"; its batch: {shown}" if examples else ""
    return UserError(
        f"{error} at step {error.step}, learning rate {rate:.3g}{batch}; "
        f"last good checkpoint: {checkpoint or 'none'}; {advice}"
    )
