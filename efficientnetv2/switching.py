"""What weights may change in a network that is built: its padding and its normalisation.

Functions that were traced before a switch keep what they were traced with; those of `predict`,
`evaluate` and `fit` are made anew.
"""

import keras

from efficientnetv2.preprocessing_layers import scale_and_offset


def set_padding(model: keras.Model, padding: str) -> None:
    """Switches the padding of the strided convolutions, "same" or "symmetric", see `ModelSpec`."""
    for layer in model.layers:
        if hasattr(layer, "pad"):
            layer.pad(padding)
    _forget_traces(model)


def padding_of(model: keras.Model) -> str | None:
    """The padding of the strided convolutions; None if there are none of ours."""
    kinds = {"symmetric" if layer.symmetric else "same" for layer in _strided_convolutions(model)}
    return kinds.pop() if len(kinds) == 1 else None


def set_normalization(model: keras.Model, kind: str) -> bool:
    """Switches what pixels become, see `ModelSpec`; returns whether that changed anything.

    A network without a layer for it, built with `include_preprocessing=False`, is left alone.
    """
    layers = [layer for layer in model.layers if layer.name == "normalization"]
    if not layers:
        return False
    wanted = scale_and_offset(kind, model.input_shape[-1])
    had = (layers[0].scale, layers[0].offset)
    if [_numbers(value) for value in had] == [_numbers(value) for value in wanted]:
        return False
    layers[0].scale, layers[0].offset = wanted
    _forget_traces(model)
    return True


def _strided_convolutions(model: keras.Model):
    for layer in model.layers:
        for part in (layer, *getattr(layer, "steps", ())):
            if hasattr(part, "symmetric") and max(part.strides) > 1:
                yield part


def _numbers(value) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _forget_traces(model: keras.Model) -> None:
    model.predict_function = model.test_function = model.train_function = None
