"""TensorFlow import without the startup messages that no TensorFlow setting silences."""

import os
import tempfile


def import_tensorflow() -> None:
    """Imports TensorFlow, showing what it writes to stderr only if the import fails.

    TensorFlow 2.21 prints messages about missing GPU drivers before its log level takes effect.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            notes.seek(0)
            os.write(stderr, notes.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
