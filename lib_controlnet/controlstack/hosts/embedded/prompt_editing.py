"""Prompts that are several prompts, in A1111's notation: joined by AND, and changing on the way.

`one AND two :0.5` asks for both, the second half as strongly. `[from:to:when]`, `[to:when]` and
`[from::when]` change at an evaluation of the UNet, which is a share of all if `when` has a point;
`[one|two]` takes turns. A backslash makes a character plain text. Brackets nest.
Source: A1111's wiki, "Features", and the examples in its prompt_parser.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from controlstack.errors import ControlError

MAX_DEPTH = 50
"""Brackets within brackets; deeper ones are plain text."""
MAX_JOINED = 16
"""Prompts joined by AND: each is a row of the UNet for every picture."""
_AND = re.compile(r"\bAND\b")
_WEIGHTED = re.compile(r"(.*?)(?:\s*:\s*([-+]?(?:\d+\.?\d*|\.\d+)))?\s*", re.DOTALL)
_TOKEN = re.compile(r"\\.|[\[\]():|]|[^\\\[\]():|]+|\\", re.DOTALL)
_NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")


@dataclass
class _Change:
    """`[before:after:when]`; `when` as it is written."""

    before: Sequence[Node]
    after: Sequence[Node]
    when: str


@dataclass
class _Turns:
    """`[one|two|…]`"""

    choices: Sequence[Sequence[Node]]


Node = str | _Change | _Turns


@dataclass
class _Bracket:
    """One that is still open: its parts so far, and the separators between them."""

    opened: str = ""
    parts: list[list[Node]] = field(default_factory=lambda: [[]])
    separators: list[str] = field(default_factory=list)

    def as_text(self) -> list[Node]:
        """Its content when it means nothing."""
        nodes: list[Node] = [self.opened, *self.parts[0]]
        for separator, part in zip(self.separators, self.parts[1:], strict=True):
            nodes += [separator, *part]
        return nodes

    def closed(self) -> list[Node]:
        """Its meaning."""
        if self.separators and set(self.separators) == {"|"}:
            return [_Turns(self.parts)]
        last = self.parts[-1]
        when = _NUMBER.fullmatch("".join(map(str, last))) if all(isinstance(n, str) for n in last) else None
        if when and self.separators in ([":"], [":", ":"]):
            return [_Change(self.parts[0] if len(self.parts) == 3 else [], self.parts[-2], when[1])]
        return [*self.as_text(), "]"]


def joined(prompt: str) -> list[tuple[str, float]]:
    """The prompts between ANDs, and what each is multiplied by: 1, or the number behind a colon at its end.

    Raises ControlError for too many.
    """
    texts = _AND.split(prompt)
    if len(texts) > MAX_JOINED:
        raise ControlError(
            f"A prompt joins {len(texts)} prompts by AND", f"At most {MAX_JOINED} can be joined", "Join fewer"
        )
    found = []
    for text in texts:
        match = _WEIGHTED.fullmatch(text)
        words, weight = match.groups() if match else (text, None)
        found.append((words, float(weight) if weight else 1.0))
    return found


def course(prompt: str, evaluations: int, before: int = 0) -> list[str]:
    """The prompt at each of a pass's evaluations.

    before: in a high-resolution pass, the evaluations of the first pass: the count of `when` goes on from
    there, 0.5 lies in the first pass and 1.5 in the middle of this one.
    As in A1111 a change at `when` is seen by the evaluation with that number, counted from 0, for the first
    time after it, and the first two evaluations see the same turn.
    """
    nodes = _parse(prompt)
    if all(isinstance(node, str) for node in nodes):
        return [prompt] * evaluations
    return [_text(nodes, max(i, 1), evaluations, before) for i in range(evaluations)]


def _parse(prompt: str) -> list[Node]:
    stack = [_Bracket()]
    for piece in _TOKEN.findall(prompt):
        top = stack[-1]
        if piece in ("[", "(") and len(stack) <= MAX_DEPTH:
            stack.append(_Bracket(piece))
        elif piece in (":", "|") and top.opened == "[":
            top.separators.append(piece)
            top.parts.append([])
        elif piece == "]" and top.opened == "[":
            stack.pop()
            stack[-1].parts[-1] += top.closed()
        elif piece == ")" and top.opened == "(":
            stack.pop()
            stack[-1].parts[-1] += [*top.as_text(), ")"]
        else:
            top.parts[-1].append(piece)
    return [node for bracket in stack for node in bracket.as_text()]


def _text(nodes: Iterable[Node], step: int, evaluations: int, before: int) -> str:
    """The prompt at step 1, 2, …"""

    def said(node: Node) -> str:
        if isinstance(node, str):
            return node
        if isinstance(node, _Turns):
            return _text(node.choices[(step - 1) % len(node.choices)], step, evaluations, before)
        changed = step > _when(node.when, evaluations, before)
        return _text(node.after if changed else node.before, step, evaluations, before)

    return "".join(map(said, nodes))


def _when(written: str, evaluations: int, before: int) -> int:
    share = "." in written
    value = float(written) - ((1.0 if before else 0.0) if share else before)
    return int(min(value * evaluations if share else value, evaluations))
