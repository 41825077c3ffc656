"""What the signatures of an export take and give: names, types and shapes."""

from export.serving import TOP_K


def signatures_of(loaded) -> dict:
    """Returns {signature: {"inputs" | "outputs": {name: {"dtype", "shape"}}}} of a SavedModel.

    `loaded` is what `tf.saved_model.load` gave; None in a shape is any size.
    """
    return {
        name: {
            "inputs": _described(function.structured_input_signature[1]),
            "outputs": _described(function.structured_outputs),
        }
        for name, function in loaded.signatures.items()
    }


def expected_signatures(
    image_size: int, num_classes: int, labelled: bool, num_features: int
) -> dict:
    """Returns what `signatures_of` gives for an export that keeps the contract."""
    answers = {
        "scores": _spec("float32", [None, num_classes]),
        "classes": _spec("int64", [None, min(TOP_K, num_classes)]),
    }
    if labelled:
        answers["labels"] = _spec("string", [None, min(TOP_K, num_classes)])
    pixels = [None, image_size, image_size, 3]
    features = {"features": _spec("float32", [None, num_features])}
    rows = {
        "serving_default": ("image_bytes", "string", [None], answers),
        "predict_images": ("images", "uint8", pixels, answers),
        "predict_images_float": ("images", "float32", pixels, answers),
        "predict_features": ("images", "uint8", pixels, features),
    }
    return {
        name: {"inputs": {key: _spec(dtype, shape)}, "outputs": outputs}
        for name, (key, dtype, shape, outputs) in rows.items()
    }


def first_difference(found: dict, expected: dict) -> str | None:
    """Says in words where signatures differ; None if they do not."""
    for name in [*expected, *(set(found) - set(expected))]:
        mine, theirs = found.get(name), expected.get(name)
        if mine is None or theirs is None:
            return f"signature {name} is {'missing' if mine is None else 'additional'}"
        for side in ("inputs", "outputs"):
            for key in sorted({*mine[side], *theirs[side]}):
                one, other = (_text(sides[side].get(key)) for sides in (mine, theirs))
                if one != other:
                    return f"{name}, {side[:-1]} {key}: {one}, expected {other}"
    return None


def _spec(dtype: str, shape: list) -> dict:
    return {"dtype": dtype, "shape": shape}


def _text(spec: dict | None) -> str:
    return "none" if spec is None else f"{spec['dtype']} {spec['shape']}"


def _described(tensors: dict) -> dict:
    return {name: _spec(t.dtype.name, t.shape.as_list()) for name, t in sorted(tensors.items())}
