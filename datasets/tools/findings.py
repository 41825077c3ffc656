"""Findings of `--mode=check_data`: kinds of errors and notes, and their table."""

import collections
from collections.abc import Iterable
from typing import NamedTuple

# kind -> meaning. Errors stop a run or make its result wrong; notes do neither.
ERRORS = {
    "unreadable": "the storage refuses to read it",
    "empty": "no bytes",
    "not an image": "no JPEG, PNG, BMP or GIF",
    "truncated": "the end is missing",
    "corrupt": "cannot be decoded",
    "too large": "more than data.max_pixels",
    "broken record": "a TFRecord that cannot be read, or does not fit the settings",
    "wrong checksum": "a file is not as its manifest says",
    "empty class folder": "no image in it",
    "class not in train": "evaluated, but never trained",
    "cannot be opened": "the split cannot be used",
    "in train and eval": "the same bytes: the evaluation is flattered",
    "duplicate, other label": "the same bytes under two labels",
}
NOTES = {
    "damaged": "a JPEG with wrong bytes inside; it is decoded, but does not look as it should",
    "wrong ending": "read by its content all the same",
    "animated": "GIF: the first frame is used",
    "cmyk": "converted to RGB without a colour profile",
    "16-bit": "PNG: the upper 8 bits are used",
    "exif-rotated": "used as stored, the orientation tag is ignored",
    "small": "a side below 32 pixels",
    "duplicate": "the same bytes twice in a split",
    "left out": "no image by its ending",
    "class without examples": "in train",
    "skewed classes": "the largest has ten times as many as the smallest",
}
KINDS = {**ERRORS, **NOTES}


class Finding(NamedTuple):
    """An error or note about `name`, an example, file, folder or class; `kind` is in `KINDS`."""

    kind: str
    split: str
    name: str
    detail: str = ""

    @property
    def is_error(self) -> bool:
        """Whether it should be fixed before a run."""
        return self.kind in ERRORS


def count_kinds(findings: Iterable[Finding]) -> dict[str, int]:
    """Returns the number of findings of each kind, in the order of `KINDS`."""
    counts = collections.Counter(finding.kind for finding in findings)
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


def findings_table(findings: Iterable[Finding], examples: int = 3) -> str:
    """Formats findings as text: each kind, its count, and its first few findings."""
    findings = list(findings)
    lines = []
    for kind, count in count_kinds(findings).items():
        level = "error" if kind in ERRORS else "note"
        lines.append(f"{level:6}{kind:24}{count:>8}  {KINDS[kind]}")
        for finding in [found for found in findings if found.kind == kind][:examples]:
            detail = f": {finding.detail}" if finding.detail else ""
            lines.append(f"{'':16}{finding.split}: {finding.name}{detail}")
        if count > examples:
            lines.append(f"{'':16}...")
    return "\n".join(lines) or "nothing found"
