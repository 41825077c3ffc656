"""Imports TensorFlow without the start-up notes that no setting of its own silences."""

import os
import tempfile


def import_tensorflow() -> None:
    """Imports TensorFlow; what it writes to stderr meanwhile is shown only if that fails.

    TensorFlow 2.21 writes notes on missing GPU drivers before its log level takes effect.
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
