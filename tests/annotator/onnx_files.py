"""Small ONNX files, written by the format's own description (onnx.proto3), without its package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FLOAT, _INT64 = 1, 7
_INT, _INTS = 2, 7


def node(kind: str, inputs: Sequence[str], output: str, **attributes: int | Sequence[int]) -> bytes:
    """A NodeProto of one output, named after it."""
    named = [_attribute(name, value) for name, value in attributes.items()]
    return _message((1, inputs), (2, output), (3, output), (4, kind), (5, named))


def write(
    path: Path,
    nodes: Sequence[bytes],
    weights: Mapping[str, NDArray[Any]],
    given: Mapping[str, Sequence[int | str]],
    made: Mapping[str, Sequence[int | str]],
) -> Path:
    """A ModelProto of these nodes in this order; `given` and `made`: shapes of inputs and outputs."""
    graph = _message(
        (1, nodes),
        (2, "tiny"),
        (5, [_tensor(name, values) for name, values in weights.items()]),
        (11, [_value(name, shape) for name, shape in given.items()]),
        (12, [_value(name, shape) for name, shape in made.items()]),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_message((1, 8), (7, graph), (8, _message((1, ""), (2, 13)))))
    return path


def _attribute(name: str, value: int | Sequence[int]) -> bytes:
    one = isinstance(value, int)
    return _message((1, name), (20, _INT if one else _INTS), (3 if one else 8, value))


def _tensor(name: str, values: NDArray[Any]) -> bytes:
    kind, stored = (
        (_FLOAT, values.astype("<f4")) if values.dtype.kind == "f" else (_INT64, values.astype("<i8"))
    )
    return _message((1, values.shape), (2, kind), (8, name), (9, np.ascontiguousarray(stored).tobytes()))


def _value(name: str, shape: Sequence[int | str]) -> bytes:
    sizes = [_message((1 if isinstance(size, int) else 2, size)) for size in shape]
    return _message((1, name), (2, _message((1, _message((1, _FLOAT), (2, _message((1, sizes))))))))


def _message(*fields: tuple[int, Any]) -> bytes:
    """Protocol Buffers' wire format; a list is a repeated field."""
    return b"".join(
        _field(number, one)
        for number, value in fields
        for one in (value if isinstance(value, (list, tuple)) else [value])
    )


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    """Seven bits a byte, lowest first; a negative number as 64 bits."""
    number &= (1 << 64) - 1
    groups = []
    while True:
        number, low = number >> 7, number & 127
        groups.append(low | (128 if number else 0))
        if not number:
            return bytes(groups)
