"""Asks an export about damaged images, in a process of its own, which may die of one.

    python tests/helpers/fuzzed_images.py EXPORT COUNT SEED

prints the number of each image before it asks, and at the end, in JSON, how many were answered,
how many refused, all other outcomes by number, and the growth of memory in MiB. An image that takes
longer than 20 seconds ends the process. `mutated(number, seed)` makes an image again.
"""

import faulthandler
import json
import pathlib
import random
import resource
import sys

import numpy as np
import tensorflow as tf

FORMATS = pathlib.Path(__file__).parents[1] / "data" / "formats"
IMAGES = [path.read_bytes() for path in sorted(FORMATS.iterdir())]
SECONDS = 20  # For one image.
_HEADER = 40  # bytes, in which most of what decides about an image is


def _flipped(image: bytearray, rng: random.Random) -> None:
    end = rng.choice([_HEADER, len(image)])
    for _ in range(rng.choice([1, 3, 30])):
        image[rng.randrange(end)] ^= 1 << rng.randrange(8)


def _cut(image: bytearray, rng: random.Random) -> None:
    del image[rng.randrange(len(image)) :]


def _without_a_part(image: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(image))
    del image[start : start + rng.randrange(1, 50)]


def _inserted(image: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(image))
    image[start:start] = rng.randbytes(rng.choice([1, 4, 200]))


def _overwritten(image: bytearray, rng: random.Random) -> None:
    """By zeros or ones: sizes that are none, or very large."""
    length = rng.choice([1, 2, 4, 16])
    start = rng.randrange(rng.choice([_HEADER, len(image) - length]))
    image[start : start + length] = bytes([rng.choice([0, 0x7F, 0xFF])]) * length


def _with_another_header(image: bytearray, rng: random.Random) -> None:
    length = rng.choice([2, 8, 26, 54])
    image[:length] = rng.choice(IMAGES)[:length]


MUTATIONS = (_flipped, _cut, _without_a_part, _inserted, _overwritten, _with_another_header)


def mutated(number: int, seed: int) -> bytes:
    """Image `number`: each format in turn, with one to three damages."""
    rng = random.Random(f"{seed} {number}")
    image = bytearray(IMAGES[number % len(IMAGES)])
    for mutation in rng.choices(MUTATIONS, k=rng.randint(1, 3)):
        if len(image) > _HEADER:
            mutation(image, rng)
    return bytes(image)


def outcome(serve, image: bytes) -> str:
    """ "answered", "refused", or what is wrong."""
    try:
        scores = serve(image_bytes=tf.constant([image]))["scores"].numpy()
    except tf.errors.InvalidArgumentError:
        return "refused"
    except tf.errors.OpError as error:
        return f"{type(error).__name__}: {error.message}"
    good = scores.ndim == 2 and len(scores) == 1 and np.isfinite(scores).all()
    if good and abs(scores.sum() - 1) < 1e-3:
        return "answered"
    return f"scores of {scores.shape} that add up to {scores.sum()}"


def bombs() -> dict[str, bytes]:
    """Whole images whose 81 million pixels would take a gigabyte."""
    black = tf.zeros([9000, 9000, 1], tf.uint8)
    return {"jpeg": tf.io.encode_jpeg(black).numpy(), "png": tf.io.encode_png(black).numpy()}


def memory() -> float:
    """MiB, the most that the process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(export_dir: str, count: int, seed: int) -> None:
    serve = tf.saved_model.load(export_dir).signatures["serving_default"]
    for image in IMAGES:
        if outcome(serve, image) != "answered":
            raise RuntimeError("an image that is whole must be answered")
    large = bombs()
    before, found = memory(), {"answered": 0, "refused": 0}
    outcomes = {name: outcome(serve, image) for name, image in large.items()}
    wrong = {name: result for name, result in outcomes.items() if result != "refused"}
    for number in range(count):
        print(number, flush=True)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        result = outcome(serve, mutated(number, seed))
        faulthandler.cancel_dump_traceback_later()
        if result in found:
            found[result] += 1
        else:
            wrong[number] = result
    print(json.dumps({**found, "wrong": wrong, "grown_mib": round(memory() - before)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
