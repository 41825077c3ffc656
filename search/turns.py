"""Who computes on this host: many work at once, or one measures alone.

Two files are locked by `flock`. Whoever works holds `turn` shared; whoever measures first takes
`wish`, which those that work look at now and then: they pause, and let go of `turn`.
"""

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator

POLL_SECONDS = 0.1


def never() -> bool:
    """Nobody asks to stop."""
    return False


class HostTurns:
    """One process' part in the turns of a host.

    `stopping()`: whether to give up waiting; what waits then goes on without its turn.
    """

    def __init__(self, stopping: Callable[[], bool] = never):
        self.stopping = stopping
        self._wish, self._turn = (_opened(f"efficientnetv2-search-{x}") for x in ("wish", "turn"))

    def close(self) -> None:
        """Gives back whatever is held."""
        os.close(self._wish)
        os.close(self._turn)

    def begin_work(self) -> None:
        """Waits until nobody measures, and takes part in working."""
        if self._take(self._wish, fcntl.LOCK_SH):
            self._take(self._turn, fcntl.LOCK_SH)
        _release(self._wish)

    def end_work(self) -> None:
        """No longer works."""
        _release(self._turn)

    def give_way(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """While working: if another wants to measure, pauses until it has."""
        if _try(self._wish, fcntl.LOCK_SH):
            _release(self._wish)
            return
        pause()
        self.end_work()
        self.begin_work()
        resume()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, nobody else on this host works or measures; do not enter it while working."""
        if self._take(self._wish, fcntl.LOCK_EX):
            self._take(self._turn, fcntl.LOCK_EX)
        try:
            yield
        finally:
            _release(self._turn)
            _release(self._wish)

    def _take(self, file: int, how: int) -> bool:
        while not _try(file, how):
            if self.stopping():
                return False
            time.sleep(POLL_SECONDS)
        return True


def _opened(name: str) -> int:
    """A file of all users of this host; opening one of another user must not ask to make it."""
    path = os.path.join(tempfile.gettempdir(), f"{name}.lock")
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)


def _try(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _release(file: int) -> None:
    fcntl.flock(file, fcntl.LOCK_UN)
