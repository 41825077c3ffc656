"""Console output: silent unless a caller passes `verbose=True`, as the command line does."""

import contextlib
import contextvars
import sys
from collections.abc import Iterator

_VERBOSE = contextvars.ContextVar("efficientnetv2_verbose", default=False)


@contextlib.contextmanager
def verbosity(verbose: bool) -> Iterator[None]:
    """Enables `show` and progress bars inside the context if `verbose`, else disables them."""
    token = _VERBOSE.set(verbose)
    try:
        yield
    finally:
        _VERBOSE.reset(token)


def is_verbose() -> bool:
    """Returns whether output is enabled."""
    return _VERBOSE.get()


def show(text: str = "", *, stderr: bool = False) -> None:
    """Prints a line to stdout or stderr, if output is enabled."""
    if is_verbose():
        print(text, file=sys.stderr if stderr else sys.stdout, flush=True)


def progress_bar(**settings):
    """Returns a `tqdm` bar on stderr, which shows nothing if output is disabled."""
    from tqdm.auto import tqdm

    return tqdm(**{"disable": None, **settings} if is_verbose() else {**settings, "disable": True})
