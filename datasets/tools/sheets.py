"""Contact sheets: rows and columns of pictures with headings, labels and captions, as a PNG."""

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from efficientnetv2.common.files import atomic_path

_MARGIN, _GAP, _LINE = 16, 10, 16  # pixels
_FONT_SIZE, _TITLE_SIZE = 13, 18  # pixels
_INK, _PAPER, _FAINT = "#202020", "white", "#6b6b6b"
_EDGE = "#d8d8d8"
_NARROWEST = 120  # minimum column width in pixels, for a heading and most of a caption


@dataclass(frozen=True)
class Cell:
    """One picture, uint8 [H, W, 3], and the caption below it, in any number of lines."""

    image: np.ndarray
    caption: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table of pictures.

    Attributes:
        title: the first line of the page.
        note: text below the title; may have several lines.
        heads: one heading for each column; may have several lines.
        rows: one cell for each column.
        labels: one for each row, to its left; empty for no labels.
    """

    title: str
    note: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    labels: Sequence[str] = field(default=())


def save_sheet(sheet: Sheet, path: str, *, cell_size: int) -> None:
    """Writes a sheet as PNG, atomically.

    Pictures keep their relative sizes. All are scaled by the same factor: they are reduced so that
    the longest side of the largest is `cell_size` pixels, or enlarged by the largest integer factor
    for which it is not longer.

    Raises: UserError if it cannot be written.
    """
    picture = io.BytesIO()
    draw_sheet(sheet, cell_size).save(picture, format="PNG")
    with atomic_path(path) as part, tf.io.gfile.GFile(part, "wb") as file:
        file.write(picture.getvalue())


def draw_sheet(sheet: Sheet, cell_size: int) -> Image.Image:
    """Returns the page; see `save_sheet`."""
    longest = max(max(cell.image.shape[:2]) for row in sheet.rows for cell in row)
    scale = cell_size / longest if longest > cell_size else cell_size // longest
    pictures = [[_resized(cell.image, scale) for cell in row] for row in sheet.rows]
    font, title_font = _font(_FONT_SIZE), _font(_TITLE_SIZE, bold=True)

    widths = [
        max(_NARROWEST, _text_width(font, head), *(picture.width for picture in column))
        for head, column in zip(sheet.heads, zip(*pictures))
    ]
    heights = [
        max(p.height + _LINE * len(cell.caption.splitlines()) for cell, p in zip(cells, row))
        for cells, row in zip(sheet.rows, pictures)
    ]
    left = _MARGIN + max([_text_width(font, label) + _GAP for label in sheet.labels], default=0)
    note_top = _MARGIN + 2 * _LINE
    head_top = note_top + _LINE * len(sheet.note.splitlines()) + _GAP
    top = head_top + _LINE * max(len(head.splitlines()) for head in sheet.heads) + _GAP

    written = max(_text_width(title_font, sheet.title), _text_width(font, sheet.note))
    across = max(left + sum(widths) + _GAP * (len(widths) - 1), _MARGIN + written)
    page = Image.new("RGB", (across + _MARGIN, top + sum(heights) + _GAP * len(heights)), _PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((_MARGIN, _MARGIN), sheet.title, _INK, title_font)
    _write(pen, (_MARGIN, note_top), sheet.note, _FAINT, font)
    columns, tops = _starts(left, widths), _starts(top, heights)
    for x, head in zip(columns, sheet.heads):
        _write(pen, (x, head_top), head, _INK, font)
    for y, label in zip(tops, sheet.labels):
        _write(pen, (_MARGIN, y), label, _INK, font)
    for y, cells, row in zip(tops, sheet.rows, pictures):
        for x, width, cell, picture in zip(columns, widths, cells, row):
            page.paste(picture, (x, y))
            edge = (x - 1, y - 1, x + picture.width, y + picture.height)
            pen.rectangle(edge, outline=_EDGE)  # Shows where a white picture ends.
            lines = [_shortened(line, font, width) for line in cell.caption.splitlines()]
            _write(pen, (x, y + picture.height + 2), "\n".join(lines), _FAINT, font)
    return page


def _starts(first: int, extents: list[int]) -> list[int]:
    """Returns the start positions of items with these extents and a gap between them."""
    return list(itertools.accumulate((e + _GAP for e in extents[:-1]), initial=first))


def _resized(image: np.ndarray, scale: float) -> Image.Image:
    picture = Image.fromarray(image)
    size = [max(1, round(side * scale)) for side in picture.size]
    enlarged = scale >= 1  # By an integer factor: pixels stay square.
    return picture.resize(size, Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Returns the font that comes with matplotlib, which has Greek, Cyrillic and more."""
    weight = "bold" if bold else "normal"
    wanted = font_manager.FontProperties(family="DejaVu Sans", weight=weight)
    return ImageFont.truetype(font_manager.findfont(wanted), size)


def _text_width(font: ImageFont.FreeTypeFont, text: str) -> int:
    return max([round(font.getlength(line)) for line in text.splitlines()], default=0)


def _write(pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, colour: str, font) -> None:
    """Writes lines below each other."""
    for number, line in enumerate(text.splitlines()):
        pen.text((place[0], place[1] + _LINE * number), line, colour, font)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Returns the text, truncated with "…" if it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
