"""Files of the keras_efficientnet_v2 package, saved by the package itself."""

import keras_efficientnet_v2
import keras_sources
import pytest

from efficientnetv2 import build_model

pytestmark = [
    pytest.mark.sources,
    pytest.mark.filterwarnings(
        *keras_sources.WARNINGS, "ignore:The initializer VarianceScaling is unseeded"
    ),
]


@pytest.mark.parametrize(
    "source, name, gain",
    [
        ("EfficientNetV2B0", "efficientnetv2-b0", 2.0),
        ("EfficientNetV2S", "efficientnetv2-s", 1.35),
        ("EfficientNetV1B0", "efficientnet-b0", 2.5),
        ("EfficientNetV1B4", "efficientnet-b4", 2.0),
    ],
)
def test_says_what_the_package_says(tmp_path, source, name, gain):
    network = getattr(keras_efficientnet_v2, source)(
        input_shape=(64, 64, 3),
        num_classes=10,
        classifier_activation=None,
        pretrained=None,
        include_preprocessing=True,
    )
    keras_sources.set_weights(network, gain)
    images, model = keras_sources.pixels(64), build_model(name, num_classes=10)
    expected = keras_sources.logits(network, images)
    for save, ending in (
        (network.save, ".h5"),
        (network.save_weights, "_weights.h5"),
        (network.save_weights, ".weights.h5"),
    ):
        path = str(tmp_path / f"saved{ending}")
        save(path)
        keras_sources.check_logits(model, path, expected, images)
