"""IP-Adapter: prompt attention looks at the tokens of pictures too (Ye et al., arXiv 2308.06721).

Standard (light, vit-G), plus (plus-face, composition) and full-face files, which read what a CLIP vision
network knows of each picture; FaceID files, plus and portrait too, which read what a network for faces knows
of the person; for SD1.x and SDXL. InstantID's file of this kind reads faces too.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from controlstack.embeddings import FACE, GREY_PATCHES, PATCHES, POOLED, RAW_FACE
from controlstack.errors import ControlError
from controlstack.family import Family, KnowsFace, Match, Start, register
from controlstack.image_prompt import Layers, Network, TokensPass, layers, of_rows
from controlstack.joints import Attention, Call, Control, Services, Site
from controlstack.preprocess import Embedding
from controlstack.unit import Combination
from controlstack.weights import Header, read_tensors

_PROJECTOR, _KEY = "image_proj.", re.compile(r"ip_adapter\.(\d+)\.to_k_ip\.weight")
CLIP_H, CLIP_G = "ip-adapter_clip_sd15", "ip-adapter_clip_sdxl"
FACE_ID, FACE_ID_PLUS = "ip-adapter_face_id", "ip-adapter_face_id_plus"
INSTANT_ID = "instant_id_face_embedding"
"""Preprocessors that files ask for."""


@dataclass(frozen=True)
class Reading:
    """What a file says of itself.

    layers: where it acts
    reads: which embeddings the projector takes, in this order, and how many channels of each
    shortcut: FaceID-plus v2: what the resampler makes of the patches is added to the face's tokens
    """

    layers: Layers
    reads: Mapping[str, int]
    shortcut: bool = False


class IPAdapterFamily(Family):
    """Files of two parts, `image_proj` and `ip_adapter`.

    FaceID files have a LoRA for the UNet's attention in the second part, which is published as a file of its
    own too. It is left to the host's LoRAs: what is in the file is not used.
    """

    name = "IP-Adapter"

    def match(self, header: Header) -> Match | None:
        shapes = header.shapes
        found, reads = layers(shapes, _KEY), _reads(shapes)
        if found is None or reads is None:
            return None
        xl = found.weights == 11
        # Two things that no tensor tells: v2 adds its two ways (SDXL has no other), unnorm reads faces raw.
        stem = header.path.stem.lower()
        shortcut = len(reads) > 1 and (xl or "v2" in stem)
        if FACE in reads and "unnorm" in stem:
            reads = {RAW_FACE if name == FACE else name: size for name, size in reads.items()}
        reading = Reading(found, reads, shortcut)
        made_with, lora = _preprocessor(shapes, reads), _lora(shapes, reading, "sdxl" if xl else "sd15")
        return Match(
            *(self, header, found.base, found.weights),
            embeddings=True,
            preprocessor=made_with,
            lora=lora,
            detail=reading,
        )

    def load(self, match: Match, services: Services) -> nn.Module:
        header, reading = cast(Header, match.header), cast(Reading, match.detail)
        keys = reading.layers.keys
        values = [key.replace("to_k_ip", "to_v_ip") for key in keys]
        of_projector = [name for name in header.shapes if name.startswith(_PROJECTOR)]
        wanted = [*of_projector, *keys, *values]
        if lacking := [name for name in wanted if name not in header.shapes]:
            raise _unusable(header, f"it lacks {lacking[0]}")
        tensors = read_tensors(header, wanted, dtype=services.dtype, device=services.device)
        projector = _projector(header, {name: tensors[name] for name in of_projector})
        made = Network(projector, [tensors[key] for key in keys], [tensors[value] for value in values])
        return made.requires_grad_(False).eval()

    def begin(self, start: Start) -> Control:
        reading = cast(Reading, start.match.detail)
        for embedding in start.embeddings:
            _check(embedding, reading, start)
        return Pass(cast(Network, start.model), start, reading)


class Pass(TokensPass, KnowsFace):
    """The pictures beside the prompt."""

    def __init__(self, network: Network, start: Start, reading: Reading) -> None:
        with torch.no_grad():
            tokens = torch.cat([_tokens(network, start, reading, asked=one) for one in (False, True)])
        super().__init__(network, tokens, start.services)
        self._face = tokens if start.match.preprocessor == INSTANT_ID else None

    def attended(self, site: Site, attention: Attention, call: Call) -> Tensor | None:
        return attention.over(*self.keys_values(site, call)) if site.cross else None

    def face(self, call: Call) -> Tensor | None:
        return None if self._face is None else self._face[list(of_rows(call))]


def _tokens(network: Network, start: Start, reading: Reading, *, asked: bool) -> Tensor:
    """The tokens "1 N D" of all pictures, or of none for the rows of the negative prompt."""
    weight = network.keys[0]
    seen = [
        [_seen(embedding, name, asked=asked).to(weight) for name in reading.reads]
        for embedding in start.embeddings
    ]
    if start.unit.combination is Combination.AVERAGE:
        seen = [[torch.stack(alike).mean(0) for alike in zip(*seen, strict=True)]]
    return torch.cat([_projected(network.projector, one, reading) for one in seen], dim=1)


def _projected(projector: nn.Module, seen: Sequence[Tensor], reading: Reading) -> Tensor:
    if len(seen) == 1:
        # A resampler reads patches; InstantID's takes the face for the only one.
        one = seen[0][:, None] if hasattr(projector, "latents") and seen[0].ndim == 2 else seen[0]
        return cast(Tensor, projector(one))
    face, patches = seen
    # diffusers hands it the patches as an attribute; the network itself is shared.
    own = cast(Any, copy.copy(projector))
    own.clip_embeds, own.shortcut = patches[:, None], reading.shortcut
    return cast(Tensor, own(face))


def _seen(embedding: Embedding, name: str, *, asked: bool) -> Tensor:
    """No picture is CLIP's view of a grey one where patches are read, and zeros elsewhere."""
    if name == PATCHES:
        return embedding[PATCHES if asked else GREY_PATCHES]
    return embedding[name] if asked else torch.zeros_like(embedding[name])


def _reads(shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, int] | None:
    """What the projector reads, and its channels; None for the projectors of other families."""
    if "image_proj.proj.weight" in shapes:
        return {POOLED: shapes["image_proj.proj.weight"][1]}
    if "image_proj.proj.3.weight" in shapes:
        return {PATCHES: shapes["image_proj.proj.0.weight"][1]}
    if {"image_proj.proj.2.weight", "image_proj.norm.weight"} <= shapes.keys():
        face, patches = shapes["image_proj.proj.0.weight"][1], "image_proj.perceiver_resampler.proj_in.weight"
        return {FACE: face} | ({PATCHES: shapes[patches][1]} if patches in shapes else {})
    if "image_proj.latents" in shapes and shapes["image_proj.latents"][1] == 16:
        width = shapes["image_proj.proj_in.weight"][1]
        return {RAW_FACE if width == FACE_WIDTH else PATCHES: width}
    return None


FACE_WIDTH = 512
"""Channels of a face embedding, which InstantID's resampler reads instead of CLIP's."""


def _preprocessor(shapes: Mapping[str, tuple[int, ...]], reads: Mapping[str, int]) -> str:
    """What makes these embeddings."""
    if RAW_FACE in reads and "image_proj.latents" in shapes:
        return INSTANT_ID
    if len(reads) > 1:
        return FACE_ID_PLUS
    if reads.keys() & {FACE, RAW_FACE}:
        return FACE_ID
    # OpenCLIP's H makes 1024 channels of a picture and 1280 of a patch, its bigG 1280 of a picture.
    return CLIP_G if reads == {POOLED: 1280} else CLIP_H


def _lora(shapes: Mapping[str, tuple[int, ...]], reading: Reading, base: str) -> str:
    """The published name of the LoRA that a file with its tensors was trained together with."""
    if not any(".to_q_lora." in name for name in shapes):
        return ""
    plus = "" if len(reading.reads) == 1 else "-plusv2" if reading.shortcut else "-plus"
    return f"ip-adapter-faceid{plus}_{base}_lora"


def _projector(header: Header, tensors: Mapping[str, Tensor]) -> nn.Module:
    """diffusers' own reading of the published projectors."""
    from diffusers.loaders.unet import UNet2DConditionLoadersMixin

    own = {name.removeprefix(_PROJECTOR): tensor for name, tensor in tensors.items()}
    convert: Any = UNet2DConditionLoadersMixin()._convert_ip_adapter_image_proj_to_diffusers
    try:
        projector: nn.Module = convert(own, low_cpu_mem_usage=False)
    except (KeyError, RuntimeError) as error:
        raise _unusable(header, str(error)[:200]) from error
    return projector.to(next(iter(own.values())))


def _unusable(header: Header, fault: str) -> ControlError:
    return ControlError(
        f"The IP-Adapter {header.path.name} cannot be used",
        f"It is damaged or a variant that this extension does not know: {fault}",
        "Download it again, or choose another model",
    )


def _check(embedding: Embedding, reading: Reading, start: Start) -> None:
    needed = dict(reading.reads)
    if PATCHES in needed:
        needed[GREY_PATCHES] = needed[PATCHES]
    for name, width in needed.items():
        held = embedding.get(name)
        if held is None or held.ndim not in (2, 3) or len(held) != 1 or held.shape[-1] != width:
            made = (f"{tensor.shape[-1]} of {name}" for name, tensor in embedding.items() if tensor.ndim)
            raise ControlError(
                f"What was made of the picture ({start.unit.module}) is not what this IP-Adapter reads",
                f"The model reads {width} channels of {name}; there are " + (", ".join(made) or "none"),
                "Choose ip-adapter-auto, or the preprocessor that the model was made with",
            )


register(IPAdapterFamily())
