"""Compatibility with Keras 2 and Keras 3; no other module checks which is installed."""

import collections
import contextlib

import keras

KERAS3 = keras.__version__.split(".")[0] != "2"
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
# Keras 2 already uses TensorFlow's fused kernel; other backends compile unfused operations.
UNFUSED_BATCH_NORM = KERAS3 and ON_TENSORFLOW
NADAM_WORKS = KERAS3  # Nadam of Keras 2 counts a step once per weight when it is traced.


def var_path(variable) -> str:
    """Returns a weight's path, such as "blocks_1/expand_conv/kernel", equal on both generations."""
    path = variable.path if KERAS3 else variable.name.split(":")[0]
    return path.replace("depthwise_kernel", "kernel")


def tf_variable(variable):
    """Returns the `tf.Variable` behind a Keras weight."""
    return variable.value if KERAS3 else variable


def all_layers(model) -> list:
    """Returns the layers of a model and, at any depth, the layers inside them."""
    return list(model._flatten_layers(include_self=False, recursive=True))


def build_optimizer(optimizer, weights) -> None:
    """Creates the state of an optimizer, which can then be used by `apply_summed` only."""
    if hasattr(optimizer, "_create_all_weights"):  # Keras 2's old interface: tensorflow-addons.
        optimizer._create_all_weights(list(weights))
    else:
        optimizer.build(list(weights))
    if KERAS3:  # It would sum the gradients over the replicas once more.
        optimizer._all_reduce_sum_gradients = lambda pairs: pairs


def apply_summed(optimizer, gradients, weights) -> None:
    """Updates weights with gradients summed over the replicas; call it in a replica."""
    pairs = list(zip(gradients, weights, strict=True))
    if KERAS3:
        optimizer.apply_gradients(pairs)
    else:
        optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)


def optimizer_variables(optimizer) -> list:
    """Returns the state of a built optimizer; in Keras 2's old interface that is a method."""
    found = optimizer.variables
    return list(found() if callable(found) else found)


def functional_calls(model) -> list[tuple]:
    """Returns (layer, shape of its first input) for each call in a functional model, in order.

    Single operations, such as the sum of two tensors, are left out: they have no weights.
    """
    calls = []
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            layer = node.operation if KERAS3 else node.layer
            inputs = node.input_tensors if KERAS3 else node.keras_inputs
            if inputs and isinstance(layer, keras.layers.Layer):
                calls.append((layer, tuple(inputs[0].shape)))
    return calls


@contextlib.contextmanager
def numbered_from_zero():
    """Numbers unnamed layers in the context as in a new process, so that paths are reproducible."""
    before = [(counts, dict(counts)) for counts in _name_counts()]
    for counts, _ in before:
        counts.clear()
    try:
        yield
    finally:
        for counts, numbers in before:
            for name, number in numbers.items():  # Keeps names assigned later unique.
                counts[name] = max(number, counts[name])


def _name_counts() -> list[dict]:
    """Returns Keras' counters of the default names that it has assigned."""
    if KERAS3:
        from keras.src.backend.common.global_state import get_global_attribute

        default = collections.defaultdict(int)
        return [get_global_attribute("object_name_uids", default=default, set_to_default=True)]
    from keras.src.backend import PER_GRAPH_OBJECT_NAME_UIDS

    return list(PER_GRAPH_OBJECT_NAME_UIDS.values())


def slot_index(optimizer, variable) -> int:
    """Returns the index of a weight's slots in a Keras optimizer."""
    if KERAS3:
        return optimizer._get_variable_index(variable)
    return optimizer._index_dict[optimizer._var_key(variable)]
