"""Process of one contender of `latency.py`. Arguments: NETWORK RUNTIME CASE.

For each "BATCH CALLS" read from standard input it runs that many batches and writes a line of JSON
with the seconds per batch. Networks have random weights; files are in a temporary folder.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.contenders import VARIANTS

Answer = Callable[[np.ndarray], object]
TIMM = {"b0": "tf_efficientnetv2_b0", "s": "tf_efficientnetv2_s"}


def ours(runtime: str, variant: str, size: int, folder: str) -> Answer:
    """Returns our network in a runtime, written by the code of exports."""
    import tensorflow as tf

    from efficientnetv2 import build_model
    from efficientnetv2.export.frozen import freeze
    from efficientnetv2.export.serving import ServingModule
    from efficientnetv2.hparams import get_config

    model = build_model(VARIANTS[variant][0])
    if runtime == "saved_model":
        data = get_config(VARIANTS[variant][0], "imagenet").data
        module = ServingModule(model, size, data)
        tf.saved_model.save(module, folder, signatures=module.signatures())
        return saved_model(folder, "predict_images_float")
    from efficientnetv2.export.formats import find_format

    find_format(runtime).write(freeze(model, size), size, folder)
    return find_format(runtime).load(folder)


def keras_applications(runtime: str, variant: str, size: int, folder: str) -> Answer:
    """Returns the network of keras.applications in a runtime, exported as its users do."""
    import keras
    import tensorflow as tf

    make = getattr(keras.applications, VARIANTS[variant][1])
    model = make(weights=None, input_shape=(size, size, 3))
    model.export(folder)
    if runtime == "saved_model":
        return saved_model(folder, "serving_default")
    from efficientnetv2.export.tflite import load_tflite

    path = os.path.join(folder, "model.tflite")
    with open(path, "wb") as file:
        file.write(tf.lite.TFLiteConverter.from_saved_model(folder).convert())
    return load_tflite(path)


def saved_model(folder: str, signature: str) -> Answer:
    import tensorflow as tf

    loaded = tf.saved_model.load(folder)
    function = loaded.signatures[signature]
    (name,) = function.structured_input_signature[1]

    def answer(images):  # Keeps `loaded` alive.
        return function(**{name: tf.constant(images)}) if loaded else None

    return answer


def timm(runtime: str, variant: str, size: int, folder: str) -> Answer:
    """Returns timm's network in a runtime, by PyTorch's exporter; its images are [N, 3, S, S]."""
    import torch
    from timm import create_model

    path = os.path.join(folder, "timm.onnx")
    model = create_model(TIMM[variant]).eval()
    torch.onnx.export(
        model,
        (torch.zeros(2, 3, size, size),),
        path,
        input_names=["images"],
        output_names=["scores"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    if runtime == "onnx":
        from efficientnetv2.export.formats import load_onnx as load
    else:
        from efficientnetv2.export.formats import load_openvino as load
    answer = load(path)
    return lambda images: answer(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def main() -> None:
    network, runtime, case = sys.argv[1:]
    variant, size = case.split("@")
    answers = os.fdopen(os.dup(1), "w")  # Redirects what libraries print to stderr.
    os.dup2(2, 1)
    makers = {"ours": ours, "keras.applications": keras_applications, "timm": timm}
    with tempfile.TemporaryDirectory() as folder:
        answer = makers[network](runtime, variant, int(size), folder)
        print("{}", file=answers, flush=True)
        rng, warm, batches = np.random.default_rng(0), set(), {}
        for line in sys.stdin:
            batch, calls = map(int, line.split())
            if batch not in warm:
                images = rng.uniform(0, 255, (batch, int(size), int(size), 3))
                batches[batch] = images.astype(np.float32)
                for _ in range(2):
                    answer(batches[batch])
                warm.add(batch)
            begun, cpu = time.perf_counter(), time.process_time()
            for _ in range(calls):
                answer(batches[batch])
            seconds = (time.perf_counter() - begun) / calls
            taken = {"seconds": seconds, "cpu_seconds": (time.process_time() - cpu) / calls}
            print(json.dumps(taken), file=answers, flush=True)


if __name__ == "__main__":
    main()
