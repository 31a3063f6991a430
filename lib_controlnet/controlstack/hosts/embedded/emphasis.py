"""Emphasis in a prompt, in A1111's notation.

(a) is 1.1 times as strong, [a] 1.1 times weaker, (a:1.3) 1.3 times as strong; a backslash makes a bracket
plain text; BREAK ends a chunk of the prompt. Brackets nest, and one that is never closed reaches to the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

STRONGER = 1.1
Piece = tuple[str, float]
"""Text and its weight."""
_FACTORS = {"(": STRONGER, "[": 1 / STRONGER}
_CLOSES = {")": "(", "]": "["}
_BREAK = "BREAK"
_TOKEN = re.compile(
    r"\\(?P<plain>[\\()\[\]])"
    r"|(?P<open>[(\[])"
    r"|:\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)"
    r"|(?P<close>[)\]])"
    rf"|\s*\b(?P<break>{_BREAK})\b\s*"
    rf"|(?P<text>(?:(?!\s*\b{_BREAK}\b)[^\\()\[\]:])+|.)",
    re.DOTALL,
)


def parse(prompt: str) -> list[list[Piece]]:
    """The pieces of a prompt, in the parts that BREAK makes of it. Neighbours of one weight are one piece."""
    pieces: list[tuple[str | None, float]] = []
    opened: dict[str, list[int]] = {bracket: [] for bracket in _FACTORS}

    def scale(start: int, factor: float) -> None:
        pieces[start:] = [(text, weight * factor) for text, weight in pieces[start:]]

    for token in _TOKEN.finditer(prompt):
        bracket = _CLOSES.get(token["close"] or ")", "(")
        if token["open"]:
            opened[token["open"]].append(len(pieces))
        elif token["weight"] and opened["("]:
            scale(opened["("].pop(), float(token["weight"]))
        elif token["close"] and opened[bracket]:
            scale(opened[bracket].pop(), _FACTORS[bracket])
        else:
            pieces.append((None if token["break"] else token["plain"] or token[0], 1.0))
    for bracket, starts in opened.items():
        for start in starts:
            scale(start, _FACTORS[bracket])
    return list(_parts(pieces))


def _parts(pieces: Iterable[tuple[str | None, float]]) -> Iterator[list[Piece]]:
    part: list[Piece] = []
    for (weight, is_break), alike in groupby(pieces, key=lambda piece: (piece[1], piece[0] is None)):
        if is_break:
            for _ in alike:
                yield part
                part = []
        else:
            part.append(("".join(str(text) for text, _ in alike), weight))
    yield part
