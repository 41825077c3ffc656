"""What TensorFlow keeps of a function that was traced."""

import contextlib
from collections.abc import Iterator

from tensorflow.python.framework import ops


@contextlib.contextmanager
def gradients_forgotten() -> Iterator[None]:
    """Inside, tracing a step that takes its own gradients leaves nothing behind.

    `tf.custom_gradient`, which TensorFlow's silu has, registers a function at each call in a trace.
    It stays for good, and with it the graph, though the step never asks for it again: without this
    a run grows by the size of a graph at each stage.
    """
    registry = ops.gradient_registry._registry
    before = len(registry)
    try:
        yield
    finally:
        for name in list(registry)[before:] if len(registry) > before else ():
            if name.startswith("CustomGradient-"):
                del registry[name]
