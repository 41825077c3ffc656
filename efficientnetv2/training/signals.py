"""Early termination: stop signals and non-finite losses."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence

from efficientnetv2.common.errors import UserError

EXIT_STOPPED = 75  # Exit status of a run that was stopped by a signal and saved: EX_TEMPFAIL.
MOST_NAMES = 8  # Names of examples in an error message.


class TrainingStopped(Exception):
    """Raised when a run was asked to stop and has saved; the same command resumes it."""

    def __init__(self, step: int):
        super().__init__(f"stopped at step {step}")
        self.step = step


class StopRequested(Exception):
    """Raised when a stop signal arrives during work that can be interrupted."""


class NotFinite(Exception):
    """Raised when the loss or the gradient norm of a step is NaN or infinite."""

    def __init__(self, step: int, loss: float, gradient_norm: float):
        super().__init__(f"the loss is {loss}, the gradient's norm {gradient_norm}")
        self.step, self.loss, self.gradient_norm = step, loss, gradient_norm


class StopSignals:
    """Context in which SIGTERM and the first SIGINT request a stop; the second SIGINT interrupts.

    Outside the main thread, the only one to which Python delivers signals, it does nothing.
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
        """Makes a stop request raise StopRequested immediately inside the context."""
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
            os.write(2, text.encode())  # Not `print`, which the signal may have interrupted.
        if self._breaks_off:
            self._breaks_off = False
            raise StopRequested


def not_finite_error(
    error: NotFinite, rate: float, examples: Sequence[str], checkpoint: str | None, advice: str
) -> UserError:
    """Returns the error that reports a step with a non-finite loss or gradient norm.

    `rate`: learning rate of the step; `examples`: names of the examples in its batch, if known;
    `checkpoint`: path of the last good checkpoint.
    """
    shown = ", ".join(examples[:MOST_NAMES])
    if len(examples) > MOST_NAMES:
        shown += f" and {len(examples) - MOST_NAMES} more"
    batch = f"; its batch: {shown}" if examples else ""
    return UserError(
        f"{error} at step {error.step}, learning rate {rate:.3g}{batch}; "
        f"last good checkpoint: {checkpoint or 'none'}; {advice}"
    )
