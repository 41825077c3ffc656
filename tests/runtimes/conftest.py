"""Exports in runtimes that need a Python of their own; each module only where it is named.

`make test-runtimes` names them: OTHER_PYTHON has the product on the other stack, TRITON_PYTHON
TensorFlow and nvidia-pytriton.
"""

import os

import numpy as np
import pytest
import tiny_run
from stirred import stirred

from efficientnetv2.export.saved_model import export_saved_model

NEEDS = {"test_other_stack.py": "OTHER_PYTHON", "test_triton.py": "TRITON_PYTHON"}
collect_ignore = [name for name, variable in NEEDS.items() if variable not in os.environ]
NAMES = tuple(f"class {index}" for index in range(tiny_run.CLASSES))


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A version of an export with labels, written by this stack."""
    folder = tmp_path_factory.mktemp("runtimes") / "tiny"
    model = stirred(tiny_run.make_model)
    return export_saved_model(model, str(folder), tiny_run.make_config(), class_names=NAMES)


@pytest.fixture(scope="session")
def pngs():
    """Five small images, encoded."""
    import tensorflow as tf

    images = np.random.default_rng(0).integers(0, 255, (5, 40, 30, 3), np.uint8)
    return [tf.io.encode_png(image).numpy() for image in images]
