"""Networks whose every weight matters, for tests of what is read or converted."""

import keras
import numpy as np

from efficientnetv2.network.compat import var_path


def stirred(build) -> keras.Model:
    """Returns what `build` makes, with weights that BatchNorm and biases do not start at."""
    keras.utils.set_random_seed(0)
    model, rng = build(), np.random.default_rng(0)
    for weight in model.weights:
        if not var_path(weight).endswith("kernel"):
            weight.assign(weight + 0.3 * rng.uniform(size=tuple(weight.shape)))
    classifier = model.get_layer("classifier")
    classifier.kernel.assign(rng.normal(size=classifier.kernel.shape))
    return model
