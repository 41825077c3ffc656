"""Reads what libraries in C write to stderr: libjpeg tells of damage that it mends only there."""

import os
import re
import tempfile

_JPEG = re.compile("JPEG|Inconsistent progression")


class StderrWatch:
    """While it is open, what is written to file descriptor 2 is kept, for `jpeg_message`.

    At the end, all but libjpeg's lines are passed on. What shall be seen meanwhile has to be
    written to a duplicate of the descriptor that was made before.
    """

    def __enter__(self):
        self._kept = tempfile.TemporaryFile()
        self._stderr = os.dup(2)
        os.dup2(self._kept.fileno(), 2)
        return self

    def __exit__(self, *_):
        os.dup2(self._stderr, 2)
        lines = self._since(0).splitlines(keepends=True)
        os.write(2, "".join(line for line in lines if not _JPEG.search(line)).encode())
        os.close(self._stderr)
        self._kept.close()

    def size(self) -> int:
        """How many bytes have been written so far."""
        return os.fstat(self._kept.fileno()).st_size

    def jpeg_message(self, start: int) -> str:
        """What libjpeg has written after the first `start` bytes, in one line."""
        return "; ".join(line for line in self._since(start).splitlines() if _JPEG.search(line))

    def _since(self, start: int) -> str:
        return os.pread(self._kept.fileno(), self.size() - start, start).decode(errors="replace")
