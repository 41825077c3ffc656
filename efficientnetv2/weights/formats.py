"""Which reader a path gets. To add a format: a reader that returns `Stored`, and a line here."""

import os

from efficientnetv2.weights.keras_files import read_keras_file
from efficientnetv2.weights.stored import Stored
from efficientnetv2.weights.tf_checkpoint import checkpoint_prefix, read_checkpoint
from efficientnetv2.weights.torch_files import read_torch_file
from hparams import UserError

_BY_ENDING = {
    (".h5", ".hdf5", ".keras"): lambda path, use_ema: read_keras_file(path),
    (".pth", ".pt", ".bin", ".pth.tar", ".safetensors"): read_torch_file,
}


def read_weights(path: str, use_ema: bool = True) -> Stored:
    """Reads a weights file, or the newest checkpoint of a folder.

    Raises: UserError if there is none, or it cannot be read.
    """
    for endings, read in _BY_ENDING.items():
        if path.endswith(endings) and not os.path.isdir(path):
            if not os.path.exists(path):
                raise UserError(f"no weights file {path!r}")
            return read(path, use_ema)
    prefix = checkpoint_prefix(path)
    if prefix is None:
        known = ", ".join(ending for endings in _BY_ENDING for ending in endings)
        raise UserError(
            f"no checkpoint found in {path}; give the folder or prefix of a TensorFlow checkpoint, "
            f"or a file ending in {known}"
        )
    return read_checkpoint(prefix, use_ema)
