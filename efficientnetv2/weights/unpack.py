"""Unpacks an archive of weights that may be hostile: whole and inside its folder, or not at all."""

import gzip
import os
import re
import shutil
import tarfile
import zlib

from hparams import UserError

MAX_UNPACKED_BYTES = 8 * 2**30  # L2's 480 million weights and their averages take 4.
_CHUNK = 1 << 20


def unpack(archive: str, folder: str) -> None:
    """Unpacks a tar archive, by gzip or not compressed, to `folder`, which must not exist.

    Only plain files and folders are accepted. `folder` appears last and at once, so it is never
    half full. One process at a time may unpack to the same folder.

    Raises: UserError, naming the archive, if it is damaged or cut short, if it holds a link, a
    device, or a name that leads out of the folder, or if it unpacks to more than
    `MAX_UNPACKED_BYTES`; OSError if the folder cannot be written.
    """
    part = f"{folder}.part"
    shutil.rmtree(part, ignore_errors=True)  # Of a process that was killed.
    os.makedirs(part)
    try:
        with tarfile.open(archive, "r:gz" if _is_gzip(archive) else "r:") as tar:
            _extract_all(tar, archive, part)
            while tar.fileobj.read(_CHUNK):  # To the end, where gzip compares its checksum.
                pass
        os.replace(part, folder)
    except tarfile.FilterError as error:
        raise _refused(archive, error.tarinfo.name, "is unsafe") from error
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{archive} is cut short, damaged or no tar archive ({reason}); delete it and try again"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def find_checkpoint(folder: str) -> str:
    """Returns the prefix of the one checkpoint below `folder`, such as FOLDER/b0/model.ckpt.

    Raises: UserError if there is none, or more than one.
    """
    found = [
        os.path.join(parent, name.removesuffix(".index"))
        for parent, _, names in os.walk(folder)
        for name in names
        if name.endswith(".index") and not name.startswith("._")  # Those are macOS' metadata.
    ]
    if len(found) != 1:
        raise UserError(
            f"{folder} must hold one checkpoint, got {len(found)} *.index files; "
            "delete the folder and the archive beside it, and try again"
        )
    return found[0]


def _extract_all(tar: tarfile.TarFile, archive: str, folder: str) -> None:
    num_bytes = 0
    for member in tar:
        if not (member.isreg() or member.isdir()):
            raise _refused(archive, member.name, "is neither a file nor a folder")
        parts = re.split(r"[/\\]", member.name)
        if ".." in parts or parts[0] == "" or ":" in parts[0] or "\0" in member.name:
            raise _refused(archive, member.name, "has a name that may lead out of its folder")
        num_bytes += member.size
        if member.size < 0 or num_bytes > MAX_UNPACKED_BYTES:
            why = f"of {member.size} bytes breaks the limit of {MAX_UNPACKED_BYTES} in all"
            raise _refused(archive, member.name, why)
        tar.extract(member, folder, set_attrs=False, filter="data")
        if member.isreg():
            with open(os.path.join(folder, member.name), "rb") as file:
                os.fsync(file.fileno())  # The folder's name must not outlive a power cut alone.


def _is_gzip(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _refused(archive: str, member: str, why: str) -> UserError:
    return UserError(f"{archive} is refused: its member {member!r} {why}; delete the archive")
