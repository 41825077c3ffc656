"""For all tests: two logical CPU devices, set before TensorFlow starts, and main.py to call."""

import itertools
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
import tensorflow as tf
from absl import logging
from absl.testing import flagsaver

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

# Each strategy of a process numbers its collectives from the same key, so that those of two tests
# would meet; a program has one strategy.
keys = itertools.count(0, 1000)
tf.distribute.MirroredStrategy._collective_key_base = property(lambda strategy: next(keys))


def run(*arguments):
    """Runs the command line with these flags, in this process."""
    from efficientnetv2.cli import app

    level = logging.get_verbosity()
    try:
        with flagsaver.flagsaver():
            app.FLAGS.unparse_flags()
            app.main(app.parse_flags(["efficientnetv2", *arguments]))
    finally:
        logging.set_verbosity(level)


@pytest.fixture(autouse=True)
def verbose():
    """Parts of the library print as they do on the command line; `verbosity(False)` ends it."""
    from efficientnetv2.common.console import verbosity

    with verbosity(True):
        yield


@pytest.fixture
def answer(capsys):
    """Runs main.py; returns the last line that it printed, and all."""

    def answered(*arguments):
        run(*arguments)
        lines = capsys.readouterr().out.splitlines()
        return json.loads(lines[-1]), lines

    return answered


@pytest.fixture
def refused(capsys):
    """Runs main.py, which must end with status 2; returns the one line on stderr."""

    def error(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(*arguments)
        assert ended.value.code == 2
        line = capsys.readouterr().err
        assert line.startswith("error: ")
        assert line.count("\n") == 1
        return line.removeprefix("error: ").rstrip("\n")

    return error
