"""Embeddings on the wire: what a preprocessor knows of a picture, as base64 of what `torch.save` writes.

/controlnet/detect answers so, and a unit's `ipadapter_input` takes such answers, also the incumbent's.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import cast
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor
from torch.nn.functional import normalize

from controlstack.errors import ControlError
from controlstack.preprocess import Embedding

POOLED, PATCHES = "image_embeds", "hidden_states"
"""What CLIP knows: the picture as a whole "1 D", or its second last layer's of every patch "1 N C"."""
LAST_PATCHES = "last_hidden_state"
"""The last layer's, of every patch "1 N C"."""
GREY_PATCHES = "uncond_hidden_states"
"""`PATCHES` of a grey picture."""
FACE, RAW_FACE = "face_embeds", "raw_face_embeds"
"""What a network for faces knows of the largest one, "1 512": of length 1, and as it puts it out."""
EVA, EVA_LAYERS = "eva_embeds", "eva_hidden_states"
"""What EVA-CLIP knows of a face: as a whole "1 768", of length 1, and of every patch in five depths
"1 5 N 1024"."""

MAX_BYTES = 64 << 20
"""Of one embedding; the incumbent's have all layers of CLIP, 44 MB."""
MAX_GIVEN = 64
"""Most embeddings in one unit."""


def write(embedding: Embedding) -> str:
    """Base64 of a file that `torch.load` reads with `weights_only`."""
    held = BytesIO()
    torch.save(dict(embedding), held)
    return base64.b64encode(held.getvalue()).decode()


def read(given: Sequence[object]) -> tuple[Embedding, ...]:
    """Embeddings from base64 texts, tensors, or tensors by name. Raises ControlError for all else.

    The incumbent's are understood: all layers of CLIP in a list, and a tensor of faces without a name.
    """
    if len(given) > MAX_GIVEN:
        raise _wrong("", f"There are {len(given)}", f"Send at most {MAX_GIVEN}")
    return tuple(embedding for place, one in enumerate(given) for embedding in _read(f"[{place}]", one))


def _read(place: str, given: object) -> list[Embedding]:
    held = _loaded(place, given) if isinstance(given, str) else given
    if isinstance(held, Tensor) and held.ndim:
        faces = held.detach().float().reshape(-1, 1, held.shape[-1])
        return [_checked(place, {FACE: normalize(face), RAW_FACE: face}) for face in faces]
    if not isinstance(held, Mapping):
        raise _wrong(place, "It holds no tensors", "Send what /controlnet/detect answers as tensor")
    layers = held.get(PATCHES)
    if isinstance(layers, (list, tuple)) and len(layers) > 1:
        held = {**held, PATCHES: layers[-2]}
    return [_checked(place, {str(name): t for name, t in held.items() if isinstance(t, Tensor)})]


def _checked(place: str, embedding: Embedding) -> Embedding:
    if not embedding or not all(t.is_floating_point() and t.isfinite().all() for t in embedding.values()):
        raise _wrong(place, "It holds no numbers that can be used", "Send what /controlnet/detect answers")
    return embedding


def _loaded(place: str, text: str) -> object:
    """What a base64 text holds, by torch's own reader for untrusted files."""
    data = _bytes(place, text)
    try:
        return cast(object, torch.serialization.load(BytesIO(data), map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged or hostile pickle can raise anything
        raise _wrong(
            place,
            "It is damaged, or holds more than tensors, and that could run a program on this computer",
            "Send what /controlnet/detect answers",
        ) from error


def _bytes(place: str, text: str) -> bytes:
    """The file that a base64 text is of, a zip archive that is not too large unpacked either."""
    size = len(text) * 3 // 4
    try:
        if size <= MAX_BYTES:
            data = base64.b64decode(text.rpartition(",")[2], validate=True)
            with ZipFile(BytesIO(data)) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
    except (binascii.Error, BadZipFile) as error:
        raise _wrong(place, "It is no base64 of a tensor file", "Send what torch.save writes") from error
    if size > MAX_BYTES:
        raise _wrong(place, "It is too large", f"Send at most {MAX_BYTES >> 20} MiB")
    return data


def _wrong(place: str, why: str, fix: str) -> ControlError:
    return ControlError(f"ipadapter_input{place} cannot be used", why, fix)
