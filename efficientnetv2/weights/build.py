"""Network construction by name, with published weights or a weights file."""

import dataclasses
import os

import keras

from efficientnetv2.common.console import is_verbose, verbosity
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import as_path
from efficientnetv2.hparams.models import get_spec
from efficientnetv2.hparams.spec import ModelSpec
from efficientnetv2.network.keras_models import PREFIX, build_keras_model
from efficientnetv2.network.model import build_network, reduction_levels


def build_model(
    name_or_spec: str | os.PathLike | ModelSpec,
    *,
    num_classes: int = 1000,
    include_top: bool = True,
    include_preprocessing: bool = True,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    in_channels: int | None = None,
    dropout_rate: float | None = None,
    drop_path_rate: float | None = None,
    normalization: str | None = None,
    norm: str | None = None,
    padding: str | None = None,
    stem_stride: int | None = None,
    output_stride: int | None = None,
    bn_synchronized: bool = False,
    weights: str | os.PathLike | None = None,
    verbose: bool = False,
) -> keras.Model:
    """Returns the network as a functional Keras model.

    Shapes: [B, H, W, C], pixels in [0, 255] (uint8 or float), or, with
    `include_preprocessing=False`, floats preprocessed as the weights expect -> [B, num_classes]
    float32 logits, or, with `include_top=False`, [B, head channels] pooled features.
    Args:
      name_or_spec: one of `list_models()`, the path of a JSON specification, "keras/NAME" for an
        architecture of `keras.applications`, or a `ModelSpec`.
      input_shape: height and width in pixels, None for any, and number of channels.
      in_channels: shortcut for the number of channels; weights for three channels are adapted.
      dropout_rate: probability of dropping a pooled feature.
      drop_path_rate: rate of stochastic depth, which rises linearly from 0 over the blocks.
      normalization, norm, padding, stem_stride, output_stride: see `ModelSpec`.
      bn_synchronized: normalize over the batches of all replicas of a `tf.distribute` strategy.
      weights: name of published weights ("imagenet", "imagenet21k", "imagenet21k-ft1k", "jft"),
        which set the normalization, and whose classifier is dropped, with a warning, if
        `num_classes` differs; a file for `load_weights`; or None for random initialization.
      verbose: show download progress.
    Settings that are None default to the values of the specification.
    Raises: UserError for an unknown name, incompatible settings, or weights that do not fit.
    Source: paper Table 4 and official code: block i of N has rate i / N * `drop_path_rate`;
    the classifier kernel is uniform in +-1 / sqrt(num_classes).

    Example:
        model = effnet.build_model("efficientnetv2-s", num_classes=10, weights="imagenet")
    """
    settings = {
        "dropout_rate": dropout_rate,
        "drop_path_rate": drop_path_rate,
        "normalization": normalization,
        "norm": norm,
        "padding": padding,
        "stem_stride": stem_stride,
        "output_stride": output_stride,
    }
    settings = {key: value for key, value in settings.items() if value is not None}
    weights = as_path(weights, "weights") if weights is not None else None
    if isinstance(name_or_spec, os.PathLike):
        name_or_spec = os.fspath(name_or_spec)
    input_shape = _with_channels(input_shape, in_channels)
    if isinstance(name_or_spec, str) and name_or_spec.startswith(PREFIX):
        return build_keras_model(
            name_or_spec,
            num_classes=num_classes,
            include_top=include_top,
            include_preprocessing=include_preprocessing,
            input_shape=input_shape,
            weights=weights,
            **settings,
        )
    spec = get_spec(name_or_spec) if isinstance(name_or_spec, str) else name_or_spec
    pretrained = None
    if weights is not None:
        from efficientnetv2.weights import resolve  # Deferred: imports TensorFlow.

        pretrained = resolve.pretrained_row(spec.name, weights)
    if pretrained is not None:
        settings.setdefault("normalization", pretrained.preprocessing.normalization)
    model = build_network(
        dataclasses.replace(spec, **settings),
        num_classes if include_top else None,
        include_preprocessing=include_preprocessing,
        input_shape=input_shape,
        bn_synchronized=bn_synchronized,
    )
    if weights is not None:
        keep_normalization = normalization is not None
        with verbosity(verbose or is_verbose()):
            resolve.load_into(model, weights, pretrained, keep_normalization=keep_normalization)
    return model


def build_backbone(
    name_or_spec: str | ModelSpec, *, levels: tuple[int, ...] = (2, 3, 4, 5), **settings
) -> keras.Model:
    """Returns the network without its head, as an extractor of multi-scale features.

    Shapes: as `build_model` -> {"reduction_2": [B, H / 4, W / 4, C2], ...}, one per level. Level k
    is the last block output at stride 2**k, before the resolution is halved again. With a stride-1
    stem, all features are twice as large; `output_stride` limits the stride of every level.
    Args:
      levels: levels to return, from 1 to 5.
      settings: arguments of `build_model`; a classifier in `weights` is dropped.
    Raises: UserError as `build_model` does, and for a level that the network does not have.

    Example:
        backbone = effnet.build_backbone("efficientnetv2-s", weights="imagenet21k")
        features = backbone(images)  # {"reduction_2": [B, H / 4, W / 4, 48], …}
    """
    if isinstance(name_or_spec, str) and name_or_spec.startswith(PREFIX):
        raise UserError(f"{name_or_spec} has no levels here; use keras.applications for its layers")
    if "include_top" in settings or "num_classes" in settings:
        raise UserError("a backbone has no classifier; drop include_top and num_classes")
    spec = get_spec(name_or_spec) if isinstance(name_or_spec, str) else name_or_spec
    ends = reduction_levels(spec)
    for level in levels:
        if level not in ends:
            known = ", ".join(map(str, ends))
            raise UserError(f"{spec.name} has no reduction level {level!r}; its levels are {known}")
    if not levels:
        raise UserError("levels must name at least one reduction level")
    model = build_model(spec, include_top=False, **settings)
    outputs = {
        f"reduction_{level}": model.get_layer(f"blocks_{ends[level]}").output for level in levels
    }
    return keras.Model(model.input, outputs, name=f"{spec.name}-backbone")


def _with_channels(input_shape, in_channels: int | None):
    *size, channels = input_shape
    if in_channels is not None and channels not in (3, in_channels):
        raise UserError(f"in_channels={in_channels} contradicts input_shape={input_shape}")
    return (*size, channels if in_channels is None else in_channels)
