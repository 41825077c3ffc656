"""What several modes need: the config of the flags, checks, and the result line."""

import contextlib
import json

from absl import flags

import hparams
from hparams import UserError

FLAGS = flags.FLAGS


def configured(**more) -> hparams.Config:
    """The config that the flags describe; `more` goes to `hparams.get_config`."""
    return hparams.get_config(
        FLAGS.model_name,
        FLAGS.dataset_cfg or "shapes",
        FLAGS.hparam_str,
        data_dir=FLAGS.data_dir,
        **more,
    )


def needed(flag: str) -> None:
    """Raises: UserError if a flag is not given."""
    if not FLAGS[flag].value:
        raise UserError(f"--{flag}=PATH is needed with --mode={FLAGS.mode}")


def report(values: dict) -> None:
    """Prints the result as the last line, in JSON."""
    print(json.dumps(values), flush=True)


@contextlib.contextmanager
def named_decoding_errors(sources):
    """Turns the error of an image that cannot be decoded into one that names the file."""
    import tensorflow as tf

    import datasets

    try:
        yield
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as error:
        name = datasets.find_unreadable(sources)
        if name is None:
            raise
        raise UserError(f"cannot read the image {name}; mend it or take it out") from error
