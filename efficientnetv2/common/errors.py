"""UserError, the error type for all invalid input, and one-line reasons of system errors."""


class UserError(ValueError):
    """Input that cannot be used as given.

    The message is one line that names the value and the fix; the command line prints it
    and exits with status 2, without a traceback.
    """


def reason_of(error: Exception) -> str:
    """Returns the reason of an OSError or a TensorFlow error, in one line and without the path.

    Example: "No space left on device".
    """
    text = error.strerror if isinstance(error, OSError) else error.message
    return " ".join((text or str(error)).split()).rpartition("; ")[2]
