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
from controlstack.joints import Attention, Block, Call, Control, RowKind, Services, Site
from controlstack.layout import ANY, Base
from controlstack.preprocess import Embedding
from controlstack.unit import Combination
from controlstack.weights import Header, read_tensors

_PROJECTOR, _KEY = "image_proj.", re.compile(r"ip_adapter\.(\d+)\.to_k_ip\.weight")
_FILED, _IN_TURN = ("input", "output", "middle"), ("input", "middle", "output")
"""How files count the parts of a UNet, and how they run and per-layer weights count them."""
CLIP_H, CLIP_G = "ip-adapter_clip_sd15", "ip-adapter_clip_sdxl"
FACE_ID, FACE_ID_PLUS = "ip-adapter_face_id", "ip-adapter_face_id_plus"
INSTANT_ID = "instant_id_face_embedding"
"""Preprocessors that files ask for."""


@dataclass(frozen=True)
class Reading:
    """What a file says of itself.

    sites: the numbers that the file gives its attention layers: those of the encoder, the decoder, the middle
    reads: which embeddings the projector takes, in this order, and how many channels of each
    shortcut: FaceID-plus v2: what the resampler makes of the patches is added to the face's tokens
    """

    sites: tuple[int, ...]
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
        sites = tuple(sorted(int(found[1]) for name in shapes if (found := _KEY.fullmatch(name))))
        reads = _reads(shapes)
        if not sites or reads is None:
            return None
        width, context = shapes[f"ip_adapter.{sites[0]}.to_k_ip.weight"]
        # SD1 attends once in each block and in all levels but the last, SDXL not in its first level.
        xl = len(sites) > 16
        base = Base(width // 2, context, ANY, blocks=9) if xl else Base(width, context, None, blocks=12)
        layers = 11 if xl else 16
        # Two things that no tensor tells: v2 adds its two ways (SDXL has no other), unnorm reads faces raw.
        stem = header.path.stem.lower()
        shortcut = len(reads) > 1 and (xl or "v2" in stem)
        if FACE in reads and "unnorm" in stem:
            reads = {RAW_FACE if name == FACE else name: size for name, size in reads.items()}
        reading = Reading(sites, reads, shortcut)
        made_with, lora = _preprocessor(shapes, reads), _lora(shapes, reading, "sdxl" if xl else "sd15")
        return Match(
            *(self, header, base, layers),
            embeddings=True,
            preprocessor=made_with,
            lora=lora,
            detail=reading,
        )

    def load(self, match: Match, services: Services) -> nn.Module:
        header, reading = cast(Header, match.header), cast(Reading, match.detail)
        keys = [f"ip_adapter.{n}.to_k_ip.weight" for n in reading.sites]
        values = [f"ip_adapter.{n}.to_v_ip.weight" for n in reading.sites]
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


class Network(nn.Module):
    """The projector, and what makes keys and values of its tokens at each attention layer."""

    def __init__(self, projector: nn.Module, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        super().__init__()
        self.projector = projector
        self.keys = nn.ParameterList(nn.Parameter(key, requires_grad=False) for key in keys)
        self.values = nn.ParameterList(nn.Parameter(value, requires_grad=False) for value in values)


class Pass(KnowsFace):
    """The pictures' keys and values at every layer, made once in a pass."""

    def __init__(self, network: Network, start: Start, reading: Reading) -> None:
        sites = [site for site in start.services.sites if site.cross]
        sites.sort(key=lambda site: (_FILED.index(site.block.part), site))
        if len(sites) != len(reading.sites):
            raise ControlError(
                "The IP-Adapter does not fit the checkpoint",
                f"It was made for {len(reading.sites)} attention layers, and there are {len(sites)}",
                "Choose a pair made for each other",
            )
        blocks = {site.block for site in sites}
        in_turn = sorted(blocks, key=lambda block: (_IN_TURN.index(block.part), block.nth))
        self._layers = {block: nth for nth, block in enumerate(in_turn)}
        self._picked: dict[tuple[Site, tuple[bool, ...]], tuple[Tensor, Tensor]] = {}
        with torch.no_grad():
            tokens = torch.cat([_tokens(network, start, reading, asked) for asked in (False, True)])
            self._face = tokens if start.match.preprocessor == INSTANT_ID else None
            self._seen = {
                site: (tokens @ key.T, tokens @ value.T)
                for site, key, value in zip(sites, network.keys, network.values, strict=True)
            }

    def attended(self, site: Site, attention: Attention, call: Call) -> Tensor | None:
        if not site.cross:
            return None
        return attention.over(*self._of_rows(site, tuple(row.kind is RowKind.COND for row in call.rows)))

    def face(self, call: Call) -> Tensor | None:
        if self._face is None:
            return None
        return self._face[[int(row.kind is RowKind.COND) for row in call.rows]]

    def _of_rows(self, site: Site, asked: tuple[bool, ...]) -> tuple[Tensor, Tensor]:
        """Keys and values for these rows, picked once in a pass: picking makes a GPU wait."""
        if (site, asked) not in self._picked:
            at = [int(one) for one in asked]
            k, v = self._seen[site]
            self._picked[site, asked] = k[at], v[at]
        return self._picked[site, asked]

    def layer(self, place: Site | Block) -> int:
        return self._layers[cast(Site, place).block]


def _tokens(network: Network, start: Start, reading: Reading, asked: bool) -> Tensor:
    """The tokens "1 N D" of all pictures, or of none for the rows of the negative prompt."""
    weight = network.keys[0]
    seen = [
        [_seen(embedding, name, asked).to(weight) for name in reading.reads] for embedding in start.embeddings
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


def _seen(embedding: Embedding, name: str, asked: bool) -> Tensor:
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
