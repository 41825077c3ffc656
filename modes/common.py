"""What several modes need: the config of the flags, checks, and the result line."""

import contextlib
import json
import os

from absl import flags, logging

from efficientnetv2 import hparams
from efficientnetv2.common.errors import UserError

FLAGS = flags.FLAGS


def configured(**more) -> hparams.Config:
    """The config that the flags describe; `more` goes to `hparams.get_config`."""
    config = hparams.get_config(
        FLAGS.model_name,
        FLAGS.dataset_cfg or "shapes",
        FLAGS.hparam_str,
        data_dir=FLAGS.data_dir,
        **more,
    )
    if FLAGS.data_service:
        config = hparams.with_values(config, runtime__data_service=FLAGS.data_service)
    return config


def needed(flag: str) -> None:
    """Raises: UserError if a flag is not given."""
    if not FLAGS[flag].value:
        raise UserError(f"--{flag}=PATH is needed with --mode={FLAGS.mode}")


def make_output_dir(path: str) -> None:
    """Makes the folder of --output_dir, if it is not there. Raises: UserError if it cannot be."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to --output_dir={path}: {error.strerror}") from error


def report(values: dict) -> None:
    """Prints the result as the last line, in JSON."""
    print(json.dumps(values), flush=True)


@contextlib.contextmanager
def named_decoding_errors(sources, data_config=None, first_number=lambda: 0):
    """Turns the error of an example that cannot be read into a UserError that says which and why.

    Args:
        sources: where the examples are from; looked through one after the other.
        data_config: the `hparams.DataConfig` that they were opened with.
        first_number: -> where in the first source to begin looking, see `find_unreadable`.
    """
    from efficientnetv2 import datasets
    from efficientnetv2.datasets.bad_examples import READING_ERRORS

    try:
        yield
    except READING_ERRORS as error:
        told = user_error_in(error)
        if told is not None:
            raise told from error
        logging.warning("looking for an example that cannot be read")
        max_pixels = data_config.max_pixels if data_config else None
        found = datasets.find_unreadable(
            sources, max_pixels=max_pixels, first_number=first_number()
        )
        if found is None:
            raise
        raise UserError(
            f"cannot read {found.name}: {found.fault.reason}; mend it or take it out, or set "
            "data.on_error=skip. --mode=check_data finds all such"
        ) from error


def user_error_in(error: Exception) -> UserError | None:
    """The UserError that a Python function inside tf.data raised, which TensorFlow wraps."""
    _, marker, text = str(error).partition("UserError: ")
    return UserError(text.splitlines()[0]) if marker else None
