"""Pictures side by side, each with its title."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageOps

_CELL = 256
_TITLE = 20
_COLUMNS = 5


def contact_sheet(cells: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """All pictures on one, row by row, each fitted into a square below its title."""
    rows = -(-len(cells) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _CELL, rows * (_CELL + _TITLE)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (title, picture) in enumerate(cells):
        left, top = place % _COLUMNS * _CELL, place // _COLUMNS * (_CELL + _TITLE)
        draw.text((left + 4, top + 4), title, fill="black")
        fitted = ImageOps.contain(picture, (_CELL, _CELL))
        sheet.paste(fitted, (left, top + _TITLE))
    return sheet
