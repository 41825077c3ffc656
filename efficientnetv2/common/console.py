"""Console output: silent unless a caller passes `verbose=True`, as the command line does."""

import contextlib
import contextvars
import sys
from collections.abc import Iterator

_VERBOSE = contextvars.ContextVar("efficientnetv2_verbose", default=False)


@contextlib.contextmanager
def verbosity(verbose: bool) -> Iterator[None]:
    """Inside, `show` prints and progress bars appear if `verbose`."""
    token = _VERBOSE.set(verbose)
    try:
        yield
    finally:
        _VERBOSE.reset(token)


def is_verbose() -> bool:
    """Whether output is wanted."""
    return _VERBOSE.get()


def show(text: str = "", *, stderr: bool = False) -> None:
    """Prints a line to stdout or stderr, if output is wanted."""
    if is_verbose():
        print(text, file=sys.stderr if stderr else sys.stdout, flush=True)


def progress_bar(**settings):
    """Returns a `tqdm` bar on stderr; without output, one that shows nothing."""
    from tqdm.auto import tqdm

    return tqdm(**{"disable": None, **settings} if is_verbose() else {**settings, "disable": True})
