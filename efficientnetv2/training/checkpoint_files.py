"""The files of checkpoints in a folder: a checkpoint is there once its manifest is.

ckpt-8.index, ckpt-8.data-00000-of-00001   what TensorFlow writes
ckpt-8.json                                the manifest: bytes and SHA-256 of each; written last
checkpoint                                 the list for TensorFlow: which is the newest
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator

import tensorflow as tf

from hparams import UserError, reason_of

_OWN = re.compile(r"ckpt-(\d+)(\.(index|json|data-\d+-of-\d+).*|_temp)")
_STATE_FILE = "checkpoint"


class CheckpointFiles:
    """The checkpoints of one folder, by their numbers; `keep` of them stay."""

    def __init__(self, directory: str, keep: int):
        self.directory, self.keep = directory, keep

    def prefix(self, number: int) -> str:
        return os.path.join(self.directory, f"ckpt-{number}")

    def numbers(self) -> list[int]:
        """Returns the checkpoints that were finished, oldest first, whether they are whole or not.

        One without a manifest counts if TensorFlow's list has it: then it was finished once.
        """
        sealed = {n for n in self._files() if os.path.exists(f"{self.prefix(n)}.json")}
        return sorted(sealed | (self._listed() & set(self._files())))

    def fault(self, number: int) -> str | None:
        """Returns why a checkpoint cannot be trusted, or None if each file is as it was written."""
        manifest = f"{self.prefix(number)}.json"
        try:
            with open(manifest, encoding="utf-8") as file:
                files = dict(json.load(file)["files"])
            for name, (size, digest) in files.items():
                path = os.path.join(self.directory, name)
                if os.path.getsize(path) != size:
                    return f"{name} has {os.path.getsize(path)} bytes, not {size}"
                if _digest(path) != digest:
                    return f"{name} is not what was written: its SHA-256 differs"
        except OSError as error:
            return f"{os.path.basename(error.filename or manifest)}: {error.strerror}"
        except (ValueError, TypeError, KeyError):
            return f"{os.path.basename(manifest)} is no manifest"
        return None

    def seal(self, number: int) -> None:
        """Makes a checkpoint count, whose files are written: manifest, then TensorFlow's list."""
        files = {}
        for name in sorted(self._files()[number]):
            path = os.path.join(self.directory, name)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            files[name] = (os.path.getsize(path), _digest(path))
        self._replace(f"ckpt-{number}.json", json.dumps({"files": files}, indent=1))
        self.list_up_to(number)

    def list_up_to(self, number: int) -> None:
        """Tells TensorFlow that `number` is the newest."""
        kept = [n for n in self.numbers() if n <= number][-self.keep :]
        lines = [f'model_checkpoint_path: "ckpt-{number}"']
        lines += [f'all_model_checkpoint_paths: "ckpt-{n}"' for n in kept]
        self._replace(_STATE_FILE, "\n".join(lines) + "\n")

    def prune(self, newest: int) -> None:
        """Removes what `keep` no longer covers, and what is left of checkpoints after `newest`."""
        kept = [n for n in self.numbers() if n <= newest][-self.keep :]
        for number in self._files():
            if number not in kept:
                self.remove(number)

    def remove(self, number: int) -> None:
        """Removes a checkpoint, or a part of one; its manifest first."""
        names = self._files().get(number, [])
        for name in sorted(names, key=lambda name: not name.endswith(".json")):
            path = os.path.join(self.directory, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)

    def remove_unfinished(self) -> None:
        """Removes what a killed process left of checkpoints that it did not finish."""
        for number in set(self._files()) - set(self.numbers()):
            self.remove(number)

    def _files(self) -> dict[int, list[str]]:
        """The names of all that belongs to checkpoints, by number."""
        found: dict[int, list[str]] = {}
        names = os.listdir(self.directory) if os.path.isdir(self.directory) else []
        for name in names:
            if own := _OWN.fullmatch(name):
                found.setdefault(int(own[1]), []).append(name)
        return found

    def _listed(self) -> set[int]:
        try:
            with open(os.path.join(self.directory, _STATE_FILE), encoding="utf-8") as file:
                return {int(n) for n in re.findall(r'_paths?: ".*?ckpt-(\d+)"', file.read())}
        except FileNotFoundError:
            return set()

    def _replace(self, name: str, text: str) -> None:
        path = os.path.join(self.directory, name)
        with open(f"{path}.part", "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{path}.part", path)


@contextlib.contextmanager
def writing(path: str, advice: str = "") -> Iterator[None]:
    """Raises: UserError naming `path` and the reason if the disk or TensorFlow refuses to write."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"cannot write {path}: {reason_of(error)[-200:]}{advice}") from error


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
