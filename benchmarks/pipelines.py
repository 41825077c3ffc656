"""Pipelines that `input_pipeline.py` compares; each yields batches endlessly.

All read the same files, crop and flip at random, and yield batches of uint8 images [B, S, S, 3].
"""

import importlib.util
from collections.abc import Callable, Iterator

import tensorflow as tf

from efficientnetv2 import hparams
from efficientnetv2.datasets import build_dataset, open_source, with_source_facts

MAGNITUDE = 15  # Of RandAugment, on the official scale of 10; as in the last stage of S.


def _shuffled(files: list[str]) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(files).shuffle(len(files), seed=1).repeat()


def floor_examples(files: list[str], size: int) -> tf.data.Dataset:
    """Returns examples with only what no pipeline can omit: read, decode the crop, resize, flip."""

    def example(path):
        image_bytes = tf.io.read_file(path)
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(image_bytes),
            tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            min_object_covered=0.0,
            aspect_ratio_range=(0.75, 1.33),
            area_range=(0.05, 1.0),
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], extent[:2]], axis=0)
        image = tf.io.decode_and_crop_jpeg(image_bytes, window, channels=3)
        image = tf.cast(tf.image.resize(image, [size, size]), tf.uint8)
        return tf.image.random_flip_left_right(image)

    return _shuffled(files).map(example, num_parallel_calls=tf.data.AUTOTUNE)


def floor(files: list[str], size: int, batch: int) -> Iterator:
    """Decodes, crops, resizes, flips and batches."""
    return iter(floor_examples(files, size).batch(batch).prefetch(tf.data.AUTOTUNE))


def ours(overrides: str) -> Callable:
    """Returns `datasets.build_dataset` as run in training, with these overrides."""

    def batches(files: list[str], size: int, batch: int) -> Iterator:
        folder = files[0].rsplit("/", 2)[0]
        config = hparams.get_config(
            "efficientnetv2-s",
            "folder",
            f"train.stages=1,data.ibase=null,train.isize={size},data.eval_fraction=1e-6,"
            f"train.batch_size={batch},train.epochs=1000000,data.ram={MAGNITUDE},{overrides}",
            data_dir=folder,
        )
        source = open_source(config.data, "train", config.train.seed)
        config = with_source_facts(config, {"train": source})
        (stage,) = hparams.make_stages(config)
        return iter(build_dataset(config, "train", stage=stage, source=source))

    return batches


def keras_cv_layers(files: list[str], size: int, batch: int) -> Iterator:
    """Applies RandAugment and MixUp of keras_cv, whose magnitudes are in [0, 1]; here 0.5."""
    import keras_cv

    augment = keras_cv.layers.RandAugment(
        value_range=(0, 255), augmentations_per_image=2, magnitude=0.5
    )
    mixup = keras_cv.layers.MixUp(alpha=0.2)
    labels = tf.one_hot(tf.zeros([batch], tf.int32), 1000)

    def augmented(images):
        images = augment(tf.cast(images, tf.float32))
        mixed = mixup({"images": images, "labels": labels})
        return tf.cast(mixed["images"], tf.uint8)

    examples = floor_examples(files, size).batch(batch, drop_remainder=True)
    examples = examples.map(augmented, num_parallel_calls=tf.data.AUTOTUNE)
    return iter(examples.prefetch(tf.data.AUTOTUNE))


def torchvision_transforms(files: list[str], size: int, batch: int) -> Iterator:
    """Runs torchvision's crop, flip and RandAugment (magnitude 15 of 30) in worker processes."""
    import os

    import torch
    from PIL import Image
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.05, 1.0), antialias=False),
            transforms.RandomHorizontalFlip(),
            transforms.RandAugment(num_ops=2, magnitude=MAGNITUDE),
            transforms.PILToTensor(),
        ]
    )

    class Photos(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, index: int):
            with Image.open(files[index * 7919 % len(files)]) as image:
                return transform(image.convert("RGB"))

    workers = len(os.sched_getaffinity(0))
    return iter(torch.utils.data.DataLoader(Photos(), batch_size=batch, num_workers=workers))


def installed() -> dict[str, Callable]:
    """Returns {name: (files, size, batch) -> batches}; the first is the reference of the others."""
    found = {
        "decode+crop+resize+flip": floor,
        "ours: no augmentation": ours("data.augname=null"),
        "ours: RandAugment": ours("data.augname=randaug"),
        "ours: RandAugment+Mixup": ours("data.augname=randaug,data.mixup_alpha=0.2"),
        "ours: RandAugment+CutMix": ours("data.augname=randaug,data.cutmix_alpha=0.2"),
        "ours: AutoAugment": ours("data.augname=autoaug"),
        "ours: RandAugment corrected": ours("data.augname=randaug,data.op_set=corrected"),
        "keras_cv RandAugment+MixUp": keras_cv_layers,
    }
    if importlib.util.find_spec("torchvision"):
        found["torchvision RandAugment"] = torchvision_transforms
    return found
