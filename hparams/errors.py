"""The one error type that a user's input can cause."""


class UserError(ValueError):
    """Input that cannot be used as given.

    The message is one line that names the value and the fix; the command line prints it
    and exits with status 2, without a traceback.
    """
