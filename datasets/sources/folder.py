"""Images in folders, one folder per class, with or without folders for the splits.

With splits: `train/CLASS/...` and at least one of `val/` (also `validation/` or `valid/`) and
`test/`. `eval` is `test/` if there is one, else `val/`; `minival` is `val/` if there is one, else
`test/`.

Without splits: `CLASS/...`. In each class the files are sorted by the sha256 of
"SEED/CLASS/PATH IN THE CLASS FOLDER"; the first `round(n * eval_fraction)` of the n files, but at
least 1 and at most n - 1 (n >= 2; a single file is used for training), are `eval` and `minival`,
the others `train`. The split therefore does not depend on the file system, and adding a file moves
at most one other file per class to another split.
"""

import hashlib

import tensorflow as tf
from absl import logging

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.labels import class_names_of
from efficientnetv2.datasets.sources.files import make_indexed_source
from efficientnetv2.datasets.sources.source import Source

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
VALIDATION_NAMES = ("val", "validation", "valid")
_SPLIT_NAMES = ("train", "test", *VALIDATION_NAMES)


def open_folder(data_config, split: str, seed: int) -> Source:
    """Opens one split of the images in `data_config.data_dir`; see the module's docstring.

    Classes are named after their folders, or by `data_config.label_file`, whose lines are in the
    order of the sorted folders. Files whose extension is not in `IMAGE_ENDINGS` (case-insensitive)
    are skipped, counted and logged. Hidden files and folders are ignored. Nested folders belong to
    the class that contains them.

    Raises: UserError if there are no images, fewer than two classes, an empty class, a split folder
        without its counterpart, or a class that `train/` lacks.
    """
    root = data_config.data_dir
    if root is None or not tf.io.gfile.isdir(root):
        raise UserError(
            f"data_dir {root!r} is not a folder; pass --data_dir=PATH of one folder per class"
        )
    folders = _list_folders(root)
    split_folders = _find_split_folders(root, folders)
    if split_folders:
        class_names = _list_folders(split_folders["train"])
        _check_classes(split_folders, class_names)
        class_root = split_folders[split]
    else:
        class_names, class_root = folders, root
    if len(class_names) < 2:
        raise UserError(
            f"{class_root!r} has {len(class_names)} class folders, a classifier needs 2; is "
            "data_dir one level too high or too low?"
        )

    paths, labels, left_out = [], [], 0
    for label, class_name in enumerate(class_names):
        folder = tf.io.gfile.join(class_root, class_name)
        if split_folders and not tf.io.gfile.isdir(folder):
            continue  # a class may be missing from val/ or test/
        files, others = _list_images(folder)
        left_out += others
        if not split_folders:
            held = held_out(files, class_name, data_config.eval_fraction, seed)
            files = [name for name in files if (name in held) == (split != "train")]
        paths += [tf.io.gfile.join(folder, name) for name in files]
        labels += [label] * len(files)
    if left_out:
        logging.info("%s: left out %d files that are no images", class_root, left_out)
    if not paths:
        raise UserError(f"{class_root!r} has no images for {split!r}; add images to its classes")
    return make_indexed_source(
        paths,
        labels,
        class_names_of(data_config, class_names),
        seed,
        balanced=split == "train" and data_config.class_balance == "sample",
    )


def _list_folders(folder: str) -> list[str]:
    """Returns the names of the folders in `folder`, sorted, without hidden ones."""
    names = (name.rstrip("/") for name in tf.io.gfile.listdir(folder))
    return sorted(
        name
        for name in names
        if not name.startswith(".") and tf.io.gfile.isdir(tf.io.gfile.join(folder, name))
    )


def _find_split_folders(root: str, folders: list[str]) -> dict[str, str]:
    """Maps "train", "minival" and "eval" to folders; empty if `root` is a single tree.

    Raises: UserError if a split folder lacks its counterpart or there are two for validation.
    """
    found = {name.lower(): name for name in folders if name.lower() in _SPLIT_NAMES}
    if not found:
        return {}
    validation = [found[name] for name in VALIDATION_NAMES if name in found]
    if len(validation) > 1:
        raise UserError(f"{root!r} has {' and '.join(validation)}; keep one of them")
    if "train" not in found:
        raise UserError(
            f"{root!r} has {', '.join(found.values())} but no train; add a folder 'train', or "
            "rename it if it is a class"
        )
    if len(found) == 1:
        raise UserError(
            f"{root!r} has {found['train']} but no val or test; add a folder 'val', or pass the "
            "folder with the classes as data_dir to have it split"
        )
    test = found.get("test")
    names = {
        "train": found["train"],
        "minival": validation[0] if validation else test,
        "eval": test or validation[0],
    }
    return {split: tf.io.gfile.join(root, name) for split, name in names.items()}


def _check_classes(split_folders: dict[str, str], class_names: list[str]) -> None:
    """Raises UserError if `val/` or `test/` has a class that `train/` lacks."""
    for folder in (split_folders["minival"], split_folders["eval"]):
        for name in _list_folders(folder):
            if name not in class_names:
                raise UserError(
                    f"class {name!r} is in {folder!r} but not in {split_folders['train']!r}; "
                    "add it there or remove it"
                )


def _list_images(folder: str) -> tuple[list[str], int]:
    """Returns the paths of a class's images, relative to its folder, and the number of other files.

    The paths are sorted.

    Raises: UserError if there are no images.
    """
    images, others, pending = [], 0, [""]
    while pending:
        inside = pending.pop()
        for name in tf.io.gfile.listdir(tf.io.gfile.join(folder, inside)):
            name = name.rstrip("/")
            path = f"{inside}/{name}" if inside else name
            if name.startswith("."):
                continue
            if name.lower().endswith(IMAGE_ENDINGS):
                images.append(path)  # without accessing the file: 60,000 accesses take a second
            elif tf.io.gfile.isdir(tf.io.gfile.join(folder, path)):
                pending.append(path)
            else:
                others += 1
    if not images:
        raise UserError(
            f"class folder {folder!r} has no image ({', '.join(IMAGE_ENDINGS)}); add some or "
            "remove the folder"
        )
    return sorted(images), others


def held_out(files: list[str], class_name: str, eval_fraction: float, seed: int) -> set[str]:
    """Returns the files of one class that are held out; see the module's docstring for the rule."""
    if len(files) < 2:
        return set()
    count = min(max(round(len(files) * eval_fraction), 1), len(files) - 1)

    def key(name: str) -> tuple[str, str]:
        return hashlib.sha256(f"{seed}/{class_name}/{name}".encode()).hexdigest(), name

    return set(sorted(files, key=key)[:count])
