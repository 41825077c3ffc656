"""Prediction: the best classes of image files, from a trained network or an export."""

import os
from collections.abc import Callable, Iterable, Iterator

import tensorflow as tf

from efficientnetv2.common.console import verbosity
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import as_path
from efficientnetv2.datasets.sources.folder import IMAGE_ENDINGS
from efficientnetv2.export.serving import ServingModule
from efficientnetv2.export.versions import find_version
from efficientnetv2.hparams import CONFIG_FILE
from efficientnetv2.training.load_trained import Trained, as_trained
from efficientnetv2.training.losses import activation_of

_BAR = 20  # Characters for a score of 1.


def predict(
    run: str | os.PathLike | Trained,
    images: str | os.PathLike | Iterable[str | os.PathLike],
    *,
    verbose: bool = False,
) -> Iterator[dict]:
    """Yields the best classes of images, one image at a time, from a trained network or an export.

    Args:
        run: directory of a run or of an export (a SavedModel or the folder of its versions), or
            the result of `load_run` or `load_pretrained`.
        images: image files, and folders, whose images are read in the order of their names.
        verbose: print each image's classes with bars.

    Yields: {"image": path, "top": [{"class": index, "label": name, "score": share in [0, 1]}, …]},
        best class first, at most five; for a run, each also has its "logit".

    Raises: UserError for a path that does not exist, and naming a file that is not an image.

    Example:
        for row in effnet.predict("runs/photos", ["photo.jpg", "folder"]):
            print(row["image"], row["top"][0]["label"])
    """
    with verbosity(verbose):
        paths = [images] if isinstance(images, str | os.PathLike) else images
        files = find_images([as_path(path, "images") for path in paths])
        classify = _classifier(run)
    return predict_files(classify, files, print if verbose else lambda line: None)


def _classifier(run: str | os.PathLike | Trained) -> Callable[[tf.Tensor], dict]:
    if not isinstance(run, Trained):
        path = as_path(run, "run")
        if not os.path.exists(os.path.join(path, CONFIG_FILE)):
            return load_serving(path)
    run = as_trained(run)
    config, activation = run.config, activation_of(run.config.train.loss_type)
    module = ServingModule(run.model, config.eval.isize, config.data, run.class_names, activation)
    return module.classify


def find_images(paths: Iterable[str]) -> list[str]:
    """Returns the files among `paths`, and the images of the folders among them, sorted.

    Raises: UserError for a path that does not exist, or a folder without images.
    """
    found = []
    for path in paths:
        if os.path.isdir(path):
            inside = sorted(n for n in os.listdir(path) if n.lower().endswith(IMAGE_ENDINGS))
            if not inside:
                raise UserError(f"{path} has no images ({', '.join(IMAGE_ENDINGS)})")
            found += [os.path.join(path, name) for name in inside]
        elif os.path.exists(path):
            found.append(path)
        else:
            raise UserError(f"no image at {path!r}; --image_path takes files and folders")
    return found


def predict_files(
    classify: Callable[[tf.Tensor], dict], paths: Iterable[str], show: Callable[[str], None]
) -> Iterator[dict]:
    """Yields {"image", "top": [{"class", "label", "score"}, …]} per image, best class first.

    `classify` is a `serving_default`, or `ServingModule.classify`, which adds each "logit"; `show`
    receives the human-readable lines.
    Raises: UserError naming a file that is not an image.
    """
    for path in find_images(paths):
        try:
            with open(path, "rb") as file:
                result = classify(tf.constant([file.read()]))
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        except tf.errors.InvalidArgumentError as error:
            raise UserError(f"{path} is no readable JPEG, PNG, BMP or GIF image") from error
        scores, classes = result["scores"].numpy()[0], result["classes"].numpy()[0]
        names = [str(index) for index in classes]
        if "labels" in result:
            names = [name.decode() for name in result["labels"].numpy()[0]]
        show(path)
        top = []
        for index, name in zip(classes, names, strict=True):
            score = float(scores[index])
            show(f"  {score:6.1%} {'█' * round(score * _BAR):{_BAR}} {name}")
            top.append({"class": int(index), "label": name, "score": round(score, 6)})
            if "logits" in result:
                top[-1]["logit"] = round(float(result["logits"][0, index]), 5)
        yield {"image": path, "top": top}


def load_serving(export_dir: str) -> Callable[[tf.Tensor], dict]:
    """Returns `serving_default` of a SavedModel, or of the newest version in a folder of versions.

    Raises: UserError if there is no SavedModel.
    """
    path = find_version(export_dir)
    loaded = tf.saved_model.load(path)
    function = loaded.signatures["serving_default"]

    def classify(image_bytes):  # Keeps `loaded` alive, which owns the variables.
        return function(image_bytes=image_bytes) if loaded else None

    return classify
