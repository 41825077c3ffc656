"""Triton server of an export: pip install nvidia-pytriton==0.7.0 tensorflow==2.15.1

    python deploy/triton_server.py serving/photos/1 --model=photos [--http_port=8000]

Each signature becomes a Triton model: `photos` is `serving_default`, `photos_predict_images`, … are
the others; inputs and outputs keep their names, and a string is a tensor [N, 1] of bytes. Does not
need any other file of this project. Triton runs the model with Python's shared library,
libpython3.11.so, which is searched for next to this interpreter. SIGINT and SIGTERM stop it.
"""

import argparse
import os
import signal
import sysconfig
import threading

import tensorflow as tf
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

MOST_IMAGES = 32  # Per batch.


def tensor_of(name: str, spec: tf.TensorSpec) -> Tensor:
    """Returns Triton's specification of an input or output, without the batch dimension."""
    if spec.dtype == tf.string:
        return Tensor(name=name, dtype=bytes, shape=spec.shape[1:].as_list() or (1,))
    sizes = tuple(-1 if size is None else size for size in spec.shape[1:])
    return Tensor(name=name, dtype=spec.dtype.as_numpy_dtype, shape=sizes)


def bind(triton: Triton, name: str, signature, wait_us: int) -> None:
    """Binds a signature as a Triton model; requests within `wait_us` run as one batch."""
    ((given, spec),) = signature.structured_input_signature[1].items()

    @batch
    def answer(**inputs):
        values = inputs[given][:, 0] if spec.dtype == tf.string else inputs[given]
        outputs = signature(**{given: tf.constant(values)})
        return {key: value.numpy() for key, value in outputs.items()}

    triton.bind(
        model_name=name,
        infer_func=answer,
        inputs=[tensor_of(given, spec)],
        outputs=[tensor_of(*item) for item in signature.structured_outputs.items()],
        config=ModelConfig(
            max_batch_size=MOST_IMAGES, batcher=DynamicBatcher(max_queue_delay_microseconds=wait_us)
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("export", help="a version of an export")
    parser.add_argument("--model", default="photos")
    parser.add_argument("--http_port", type=int, default=8000)
    parser.add_argument("--grpc_port", type=int, default=8001)
    parser.add_argument("--wait_us", type=int, default=0, help="for a batch, microseconds")
    given = parser.parse_args()
    libraries = (sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH"))
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
    loaded = tf.saved_model.load(given.export)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    config = TritonConfig(
        http_port=given.http_port, grpc_port=given.grpc_port, allow_metrics=False, log_verbose=0
    )
    with Triton(config=config) as triton:
        for name, signature in loaded.signatures.items():
            model = given.model if name == "serving_default" else f"{given.model}_{name}"
            bind(triton, model, signature, given.wait_us)
        triton.run()
        print(f"http://localhost:{given.http_port}/v2/models/{given.model}", flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
