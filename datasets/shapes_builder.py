"""The embedded data set as a TFDS builder; `datasets.shapes` renders its images."""

import io

import tensorflow as tf
import tensorflow_datasets as tfds

from datasets.shapes import CLASS_NAMES, IMAGE_SIZE, SPLIT_SIZES, render


class Shapes(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of the rendered images.

    A change of what `render` returns needs a new VERSION, since prepared directories are kept.
    """

    VERSION = tfds.core.Version("1.0.0")
    split_sizes = SPLIT_SIZES

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Coloured, textured shapes, rendered by this package.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(IMAGE_SIZE, IMAGE_SIZE, 3), encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(names=list(CLASS_NAMES)),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing to download
        return {split: self._generate_examples(split) for split in self.split_sizes}

    def _generate_examples(self, split):
        for index in range(self.split_sizes[split]):
            image, label = render(split, index)
            yield index, {"image": io.BytesIO(tf.io.encode_png(image).numpy()), "label": label}
