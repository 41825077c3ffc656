"""The one module that knows which Keras generation is installed."""

import keras

KERAS3 = keras.__version__.split(".")[0] != "2"


def var_path(variable) -> str:
    """Returns a weight's path, such as "blocks_1/expand_conv/kernel", equal on both generations."""
    if KERAS3:
        return variable.path
    return variable.name.split(":")[0].replace("depthwise_kernel", "kernel")


def tf_variable(variable):
    """Returns the `tf.Variable` behind a Keras weight."""
    return variable.value if KERAS3 else variable
