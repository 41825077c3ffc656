"""Finds the file behind a decoding error, which TensorFlow does not name."""

from collections.abc import Iterable

import tensorflow as tf

from datasets.preprocess import decode_image
from datasets.sources import Source


def find_unreadable(sources: Iterable[Source]) -> str | None:
    """Returns the name of the first example that cannot be read and decoded, or None.

    Reads the sources in their fixed order, one example after the other. A name is a file's path, or
    the position in its split where examples are no files.
    """
    for source in sources:
        for position, record in enumerate(source.records(None)):
            record = record if isinstance(record, tuple) else (record,)
            try:
                decode_image(source.load(*record)[0])
            except tf.errors.OpError:
                name = record[0].numpy()
                is_path = isinstance(name, bytes) and tf.io.gfile.exists(name)
                return name.decode() if is_path else f"example {position}"
    return None
