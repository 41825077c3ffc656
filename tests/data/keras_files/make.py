"""Writes the fixtures of this folder; run once per Keras, with `PYTHONPATH=.:tests/helpers`.

`keras2/` and `keras3/` hold the small networks of `keras_sources.py` as that Keras saves them,
and `logits.json` what they say of `pixels(32)`. Where keras_efficientnet_v2 1.2.2 can be imported
(Keras 2), the same is done for a network of that package, with and without `is_torch_mode`, and
`keras_efficientnet_v2.json` gets the figures of two of its large ones.
"""

import gzip
import importlib.util
import json
import os
import pathlib
import tempfile

import keras_sources
from golden import golden_input

from efficientnetv2.network.compat import KERAS3

SIDE = 96  # pixels, of the images for large networks
HERE = pathlib.Path(__file__).parent
VARIANCE_AS_PUBLISHED = keras_sources.STD  # Not its square: see `keras_files.input_map_of`.


def main():
    folder = HERE / ("keras3" if KERAS3 else "keras2")
    folder.mkdir(exist_ok=True)
    v2 = keras_sources.small_v2()
    keras_sources.set_weights(v2)
    v1 = keras_sources.small_v1(as_published=True)
    keras_sources.set_weights(v1, variance=VARIANCE_AS_PUBLISHED)
    for name, model in (("v2", v2), ("v1", v1)):
        for ending in (".h5", ".keras"):
            write(folder / f"{name}{ending}.gz", model.save)
        for ending in (".weights.h5",) if KERAS3 else (".weights.h5", "_weights.h5"):
            write(folder / f"{name}{ending}.gz", model.save_weights)
    images = keras_sources.pixels(keras_sources.SIZE)
    says = {n: keras_sources.logits(m, images).tolist() for n, m in (("v2", v2), ("v1", v1))}
    (folder / "logits.json").write_text(json.dumps(says) + "\n")
    if importlib.util.find_spec("keras_efficientnet_v2"):
        make_package_files()


def write(path: pathlib.Path, save):
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, path.name.removesuffix(".gz"))
        save(file)
        content = pathlib.Path(file).read_bytes()
    path.write_bytes(gzip.compress(content, 9, mtime=0))


def make_package_files():
    """A small network in each mode as a file, and the figures of two large ones."""
    import keras_efficientnet_v2 as package

    folder = HERE / "keras_efficientnet_v2_files"
    folder.mkdir(exist_ok=True)
    small = {
        "expands": [1, 4, 4],
        "out_channels": [8, 8, 16],
        "depthes": [1, 1, 2],
        "strides": [1, 2, 2],
        "use_ses": [0, 0, 1],
        "output_conv_filter": 24,
        "rescale_mode": "torch",
    }
    shape = (keras_sources.SIZE,) * 2 + (3,)
    common = {"pretrained": None, "classifier_activation": None}
    says = {}
    for mode in ("tensorflow", "torch"):
        model = package.EfficientNetV2(
            {"small": small},
            input_shape=shape,
            num_classes=keras_sources.CLASSES,
            is_torch_mode=mode == "torch",
            include_preprocessing=True,
            **common,
        )
        keras_sources.set_weights(model)
        says[mode] = keras_sources.logits(model, keras_sources.pixels(shape[0])).tolist()
        write(folder / f"{mode}.h5.gz", model.save)
        write(folder / f"{mode}_weights.h5.gz", model.save_weights)
    (folder / "logits.json").write_text(json.dumps(says) + "\n")
    rows = (  # The gains keep the logits in the order of 1.
        ("efficientnetv2-b0", package.EfficientNetV2B0, 2.0),
        ("efficientnetv2-s", package.EfficientNetV2S, 1.35),
    )
    figures = {
        name: figures_of(build(input_shape=(SIDE, SIDE, 3), num_classes=10, **common), gain)
        for name, build, gain in rows
    }
    text = json.dumps(figures, separators=(",", ":")).replace('],"', '],\n"')
    (HERE / "keras_efficientnet_v2.json").write_text(text + "\n")


def figures_of(model, gain) -> dict:
    """Names and shapes of all weights, and the logits of normalised images."""
    keras_sources.set_weights(model, gain)
    return {
        "size": SIDE,
        "gain": gain,
        "weights": {w.name.split(":")[0]: list(w.shape) for w in model.weights},
        "logits": keras_sources.logits(model, golden_input(SIDE)).tolist(),
    }


if __name__ == "__main__":
    main()
