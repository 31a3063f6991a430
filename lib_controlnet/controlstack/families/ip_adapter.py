"""IP-Adapter: prompt attention looks at the tokens of pictures too (Ye et al., arXiv 2308.06721).

Standard (light, vit-G), plus (plus-face, composition) and full-face files, for SD1.x and SDXL. They read what
a CLIP vision network knows of each picture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from controlstack.embeddings import GREY_PATCHES, PATCHES, POOLED
from controlstack.errors import ControlError
from controlstack.family import Family, Match, Start, register
from controlstack.joints import Attention, Block, Call, Control, RowKind, Services, Site
from controlstack.layout import ANY, Base
from controlstack.preprocess import Embedding
from controlstack.unit import Combination
from controlstack.weights import Header, read_tensors

_PROJECTOR, _KEY = "image_proj.", re.compile(r"ip_adapter\.(\d+)\.to_k_ip\.weight")
_FILED, _IN_TURN = ("input", "output", "middle"), ("input", "middle", "output")
"""How files count the parts of a UNet, and how they run and per-layer weights count them."""


@dataclass(frozen=True)
class Reading:
    """What a file says of itself.

    sites: the numbers that the file gives its attention layers: those of the encoder, the decoder, the middle
    reads: `POOLED` or `PATCHES`, `width` channels of it
    """

    sites: tuple[int, ...]
    reads: str
    width: int


class IPAdapterFamily(Family):
    """Files of two parts, `image_proj` and `ip_adapter`."""

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
        # OpenCLIP's H makes 1024 channels of a picture and 1280 of a patch, its bigG 1280 of a picture.
        clip = "ip-adapter_clip_sdxl" if reads == (POOLED, 1280) else "ip-adapter_clip_sd15"
        layers = 11 if xl else 16
        reading = Reading(sites, *reads)
        return Match(self, header, base, layers, embeddings=True, preprocessor=clip, detail=reading)

    def load(self, match: Match, services: Services) -> nn.Module:
        header, reading = cast(Header, match.header), cast(Reading, match.detail)
        tensors = read_tensors(header, header.shapes, dtype=services.dtype, device=services.device)
        projector = _projector(header, tensors)
        keys = [tensors[f"ip_adapter.{n}.to_k_ip.weight"] for n in reading.sites]
        values = [tensors[f"ip_adapter.{n}.to_v_ip.weight"] for n in reading.sites]
        return Network(projector, keys, values).requires_grad_(False).eval()

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


class Pass(Control):
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
            self._seen = {
                site: (tokens @ key.T, tokens @ value.T)
                for site, key, value in zip(sites, network.keys, network.values, strict=True)
            }

    def attended(self, site: Site, attention: Attention, call: Call) -> Tensor | None:
        if not site.cross:
            return None
        return attention.over(*self._of_rows(site, tuple(row.kind is RowKind.COND for row in call.rows)))

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
    seen = [_seen(embedding, reading, asked).to(weight) for embedding in start.embeddings]
    if start.unit.combination is Combination.AVERAGE:
        return cast(Tensor, network.projector(torch.stack(seen).mean(0)))
    return torch.cat([network.projector(one) for one in seen], dim=1)


def _seen(embedding: Embedding, reading: Reading, asked: bool) -> Tensor:
    """No picture is zeros to projectors of pooled embeddings, CLIP's view of a grey one to the others."""
    if reading.reads == PATCHES:
        return embedding[PATCHES if asked else GREY_PATCHES]
    return embedding[POOLED] if asked else torch.zeros_like(embedding[POOLED])


def _reads(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, int] | None:
    """What the projector reads, and its channels; None for the projectors of other families."""
    if "image_proj.proj.weight" in shapes:
        return POOLED, shapes["image_proj.proj.weight"][1]
    if "image_proj.proj.3.weight" in shapes:
        return PATCHES, shapes["image_proj.proj.0.weight"][1]
    if "image_proj.latents" in shapes and shapes["image_proj.latents"][1] == 16:
        width = shapes["image_proj.proj_in.weight"][1]
        return (PATCHES, width) if width != FACE else None
    return None


FACE = 512
"""Channels of a face embedding, which InstantID's projector reads instead of CLIP's."""


def _projector(header: Header, tensors: Mapping[str, Tensor]) -> nn.Module:
    """diffusers' own reading of the published projectors."""
    from diffusers.loaders.unet import UNet2DConditionLoadersMixin

    own = {name.removeprefix(_PROJECTOR): t for name, t in tensors.items() if name.startswith(_PROJECTOR)}
    convert: Any = UNet2DConditionLoadersMixin()._convert_ip_adapter_image_proj_to_diffusers
    try:
        projector: nn.Module = convert(own, low_cpu_mem_usage=False)
    except (KeyError, RuntimeError) as error:
        raise ControlError(
            f"The IP-Adapter {header.path.name} cannot be used",
            f"It is damaged or a variant that this extension does not know: {str(error)[:200]}",
            "Download it again, or choose another model",
        ) from error
    return projector.to(next(iter(own.values())))


def _check(embedding: Embedding, reading: Reading, start: Start) -> None:
    held = {name: tensor.shape[-1] for name, tensor in embedding.items()}
    if held.get(reading.reads) != reading.width:
        raise ControlError(
            f"The preprocessor {start.unit.module!r} looks with another network than this IP-Adapter",
            f"The model reads {reading.width} channels of {reading.reads}, and it makes "
            + (", ".join(f"{n} of {name}" for name, n in held.items()) or "nothing"),
            "Choose ip-adapter-auto, or the CLIP network that the model was made with",
        )


register(IPAdapterFamily())
