"""What can be wrong with how a folder of images is laid out."""

from collections.abc import Iterator

import tensorflow as tf

from datasets.findings import Finding
from datasets.folder import IMAGE_ENDINGS, _find_split_folders, _list_folders
from datasets.indexed import make_indexed_source
from datasets.sources import Source
from hparams import UserError


def folder_findings(root: str | None) -> list[Finding]:
    """All empty class folders, classes that `train/` lacks, and files that are no images.

    `open_folder` stops at the first of them.
    """
    if root is None or not tf.io.gfile.isdir(root):
        return []  # `open_folder` says so.
    try:
        trees = _find_split_folders(root, _list_folders(root))
    except UserError:
        return []  # As it does this.
    class_roots = {path: split for split, path in (trees or {"all images": root}).items()}
    findings = []
    for class_root, split in class_roots.items():
        for name in _list_folders(class_root):
            folder = tf.io.gfile.join(class_root, name)
            files = list(_visible_files(folder))
            others = [path for path in files if not _is_image(path)]
            findings += (Finding("left out", split, path) for path in others)
            if len(others) == len(files):
                findings.append(Finding("empty class folder", split, folder))
            if trees and name not in _list_folders(trees["train"]):
                findings.append(Finding("class not in train", split, folder))
    return findings


def any_image_source(root: str | None) -> Source | None:
    """All images below a folder, as examples of no class in particular; None if there is none."""
    if root is None or not tf.io.gfile.isdir(root):
        return None
    paths = sorted(path for path in _visible_files(root) if _is_image(path))
    return make_indexed_source(paths, [0] * len(paths), ["image"], 0) if paths else None


def _is_image(path: str) -> bool:
    return path.lower().endswith(IMAGE_ENDINGS)


def _visible_files(folder: str) -> Iterator[str]:
    """Paths of files; what has an image's ending counts as one, as in `open_folder`."""
    for name in tf.io.gfile.listdir(folder):
        path = tf.io.gfile.join(folder, name.rstrip("/"))
        if name.startswith("."):
            continue
        if not _is_image(path) and tf.io.gfile.isdir(path):
            yield from _visible_files(path)
        else:
            yield path
