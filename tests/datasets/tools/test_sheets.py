"""Contact sheets: where the pictures are, how large, and that no pixel is invented."""

import numpy as np
import pytest
from PIL import Image

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.tools.sheets import Cell, Sheet, draw_sheet, save_sheet

RED, BLUE = (255, 0, 0), (0, 0, 255)


def picture(height, width, colour):
    return np.full((height, width, 3), colour, np.uint8)


def sheet(*rows, labels=()):
    return Sheet("A title", "a note", ["first", "second\nhead"], rows, labels)


def box(page, colour):
    """(height, width) of what has this colour, and whether all inside of it has."""
    rows, columns = np.where((np.asarray(page) == colour).all(axis=-1))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    return height, width, len(rows) == height * width


def test_pictures_keep_their_relative_sizes():
    cells = [Cell(picture(8, 6, RED), "small"), Cell(picture(24, 12, BLUE))]
    page = draw_sheet(sheet(cells), cell_size=100)
    assert box(page, RED) == (32, 24, True)  # Four times: a whole number.
    assert box(page, BLUE) == (96, 48, True)
    page = draw_sheet(sheet(cells), cell_size=12)
    assert box(page, RED) == (4, 3, True)
    assert box(page, BLUE) == (12, 6, True)


def test_the_text_is_there_and_a_long_caption_stays_in_its_column():
    cells = [Cell(picture(9, 9, RED), "word " * 60), Cell(picture(9, 9, BLUE))]
    page = draw_sheet(sheet(cells, labels=["row"]), cell_size=90)
    bare = draw_sheet(Sheet("", "", ["", ""], [cells]), cell_size=90)
    below = np.asarray(page)[-30:, page.width // 2 + 60 :]  # In the second column.
    assert (below[-20:] == 255).all()
    assert page.width < 400
    assert page.height > bare.height
    assert (np.asarray(page) < 100).all(axis=-1).sum() > (np.asarray(bare) < 100).all(-1).sum()


def test_saving_twice_gives_the_same_file_and_no_part(tmp_path):
    made = sheet([Cell(picture(9, 9, RED), "Ünïcode Ωж"), Cell(picture(9, 9, BLUE))])
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for file in files:
        save_sheet(made, str(file), cell_size=90)
    assert sorted(tmp_path.iterdir()) == files
    assert files[0].read_bytes() == files[1].read_bytes()
    assert box(Image.open(files[0]), RED) == (90, 90, True)


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    made = sheet([Cell(picture(9, 9, RED)), Cell(picture(9, 9, BLUE))])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="^cannot write .*file/a.png: "):
        save_sheet(made, str(tmp_path / "file" / "a.png"), cell_size=90)
