"""Who each row of a UNet call is, where a host plans an evaluation's rows first and then calls the UNet with
some of them at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from controlstack.joints import Row, RowKind


def rows(prompts: Sequence[int], count: int) -> tuple[Row, ...]:
    """A1111's `CFGDenoiser`: every picture's AND-prompts, then the negative prompts.

    prompts: how many AND-prompts each picture has
    count: of all rows. InstructPix2Pix evaluates the negative prompts twice, first with the picture
    """
    positive = [Row(i, RowKind.COND, k) for i, n in enumerate(prompts) for k in range(n)]
    with_picture = count - len(positive) == 2 * len(prompts)
    kinds = [RowKind.UNCOND_IMAGE] * with_picture + [RowKind.UNCOND]
    return (*positive, *(Row(i, kind) for kind in kinds for i in range(len(prompts))))


def of_chunks(chunks: Sequence[int], count: int) -> tuple[Row, ...]:
    """The Forge family's calls, which say themselves what they are made of: a chunk for each AND-prompt and
    for the negative prompt, in each a row for every picture.

    chunks: 0 for the positive prompt, 1 for the negative. The last AND-prompt comes first
    count: of all rows
    """
    pictures, prompt = count // len(chunks), chunks.count(0)
    named = []
    for chunk in chunks:
        prompt -= chunk == 0
        kind, nth = (RowKind.UNCOND, 0) if chunk else (RowKind.COND, prompt)
        named += [Row(image, kind, nth) for image in range(pictures)]
    return tuple(named)


@dataclass
class Ledger:
    """The rows of one evaluation. However the host cuts them into calls, and whatever it leaves out at the
    end, it takes them in this order."""

    rows: Sequence[Row]
    taken: int = 0

    def take(self, count: int) -> tuple[Row, ...]:
        """The rows of the next call. Extensions that call the UNet in a way of their own get all rows once
        or several times, or if that cannot be, rows of the positive prompt."""
        begin, self.taken = self.taken, self.taken + count
        following = tuple(self.rows[begin : self.taken])
        if len(following) == count:
            return following
        times, rest = divmod(count, len(self.rows) or 1)
        return tuple(self.rows) * times if self.rows and not rest else tuple(map(Row, range(count)))
