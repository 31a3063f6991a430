"""PuLID: a person's tokens in prompt attention, less what would pull the picture off its prompt (Guo et al.,
arXiv 2404.16022). Versions 1 and 1.1, by their authors' names or an IP-Adapter's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from controlstack.embeddings import EVA, EVA_LAYERS, RAW_FACE
from controlstack.errors import ControlError
from controlstack.family import Family, Match, Start, register
from controlstack.image_prompt import Layers, Network, TokensPass, layers
from controlstack.joints import Attention, Call, Control, Services, Site
from controlstack.preprocess import Embedding
from controlstack.unit import Combination, PuLIDMode
from controlstack.weights import Header, read_tensors

_KEY = re.compile(r"(?:ip_adapter|id_adapter_attn_layers)\.(\d+)\.(?:to_k_ip|id_to_k)\.weight")
_PROJECTORS = ("id_adapter.", "image_proj.")
_FORMER = "id_embedding_mapping.0.weight"
"""Of version 1.1 alone."""
DEPTHS = 5
"""How many of EVA-CLIP's layers are read."""
OF_FACE = 5
"""Tokens that are made of the whole face, in front of all others."""
HEAD = 64
"""Channels of a head in version 1.1's projector."""
EMPTY = {PuLIDMode.FIDELITY: 8, PuLIDMode.STYLE: 16}
"""Tokens of zeros behind the person's, from the authors' demo."""


@dataclass(frozen=True)
class Reading:
    """What a file says of itself.

    prefix: in front of the projector's names
    shapes: the projector's, without it
    """

    layers: Layers
    prefix: str
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def joins(self) -> bool:
        """Whether the projector takes several pictures at once, as version 1.1's does."""
        return _FORMER in self.shapes


class PuLIDFamily(Family):
    """Files with a projector of a person, and keys and values for prompt attention."""

    name = "PuLID"

    def match(self, header: Header) -> Match | None:
        prefixes = (one for one in _PROJECTORS if f"{one}mapping_{DEPTHS - 1}.0.weight" in header.shapes)
        prefix, found = next(prefixes, None), layers(header.shapes, _KEY)
        if prefix is None or found is None:
            return None
        own = {n.removeprefix(prefix): shape for n, shape in header.shapes.items() if n.startswith(prefix)}
        reading = Reading(found, prefix, own)
        return Match(
            *(self, header, found.base, found.weights),
            embeddings=True,
            preprocessor="ip-adapter_pulid",
            detail=reading,
        )

    def load(self, match: Match, services: Services) -> nn.Module:
        header, reading = cast(Header, match.header), cast(Reading, match.detail)
        keys = reading.layers.keys
        values = [key.replace("to_k", "to_v") for key in keys]
        wanted = [*(reading.prefix + name for name in reading.shapes), *keys, *values]
        if lacking := [name for name in wanted if name not in header.shapes]:
            raise _unusable(header, f"it lacks {lacking[0]}")
        tensors = read_tensors(header, wanted, dtype=services.dtype, device=services.device)
        own = {name: tensors[reading.prefix + name] for name in reading.shapes}
        try:
            with torch.device("meta"):
                projector = (Former if reading.joins else Encoder)(reading.shapes)
            projector.load_state_dict(own, assign=True)
        except (KeyError, RuntimeError) as error:
            raise _unusable(header, str(error)[:200]) from error
        made = Network(projector, [tensors[key] for key in keys], [tensors[value] for value in values])
        return made.requires_grad_(False).eval()

    def begin(self, start: Start) -> Control:
        for embedding in start.embeddings:
            _check(embedding, start)
        return Pass(cast(Network, start.model), start)


class Pass(TokensPass):
    """A person beside the prompt."""

    def __init__(self, network: Network, start: Start) -> None:
        self._style = start.unit.pulid_mode is PuLIDMode.STYLE
        empty = EMPTY[start.unit.pulid_mode]
        with torch.no_grad():
            tokens = torch.cat([_tokens(network, start, asked=asked) for asked in (False, True)])
        super().__init__(network, F.pad(tokens, (0, 0, 0, empty)), start.services)

    def attended(self, site: Site, attention: Attention, call: Call) -> Tensor | None:
        """What the person adds, less its share along what the prompt alone put out; where the person is
        looked at, that is left."""
        if not site.cross:
            return None
        k, v = self.keys_values(site, call)
        person, alone = attention.over(k, v).float(), attention.out.float()
        share = (alone * person).sum(1, keepdim=True) / (alone * alone).sum(1, keepdim=True)
        left = 0.0 if self._style else _looked_at(attention, k)
        return (person + (left - 1) * share * alone).to(attention.out)


def _looked_at(attention: Attention, k: Tensor) -> Tensor:
    """How much of its attention each query gives to the face's tokens, "R N 1"; as published, without the
    scale of the attention itself."""
    q, k = (_heads(one, attention.heads) for one in (attention.q, k.to(attention.q)))
    seen: Tensor = (q @ k.transpose(2, 3)).softmax(-1).mean(1)
    return seen[..., :OF_FACE].sum(-1, keepdim=True).float()


def _heads(tokens: Tensor, heads: int) -> Tensor:
    """ "R N C" as "R heads N c"."""
    return tokens.reshape(*tokens.shape[:2], heads, -1).transpose(1, 2)


def _tokens(network: Network, start: Start, *, asked: bool) -> Tensor:
    """The tokens "1 N D" of the person in all pictures, or of nobody for the rows of the negative prompt."""
    weight, several = network.keys[0], start.embeddings
    faces = torch.stack([torch.cat([one[RAW_FACE], one[EVA]], dim=1) for one in several], dim=1).to(weight)
    depths = torch.stack([one[EVA_LAYERS] for one in several]).to(weight)
    if not asked:
        faces, depths = torch.zeros_like(faces), torch.zeros_like(depths)
    if start.unit.combination is Combination.AVERAGE:
        return cast(Tensor, network.projector(faces.mean(1, keepdim=True), depths.mean(0)))
    if cast(Reading, start.match.detail).joins:
        return cast(Tensor, network.projector(faces, torch.cat(list(depths), dim=2)))
    each = (network.projector(faces[:, [n]], depths[n]) for n in range(len(several)))
    return torch.cat(list(each), dim=1)


class Encoder(nn.Module):
    """Version 1's projector: five tokens of the face, and one of each of five layers of EVA-CLIP."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.width = shapes["mapping_0.6.weight"][0]
        self.body = _mapping(shapes, "body")
        for n in range(DEPTHS):
            self.add_module(f"mapping_{n}", _mapping(shapes, f"mapping_{n}"))
            self.add_module(f"mapping_patch_{n}", _mapping(shapes, f"mapping_patch_{n}"))

    def forward(self, faces: Tensor, depths: Tensor) -> Tensor:
        """Tokens "1 10 D" of a face "1 1 1280" and layers "1 5 N 1024", the whole picture's patch first."""
        of_face = self.body(faces).reshape(1, -1, self.width)
        of_layers = [
            self.get_submodule(f"mapping_{n}")(depths[:, n, :1])
            + self.get_submodule(f"mapping_patch_{n}")(depths[:, n, 1:]).mean(1, keepdim=True)
            for n in range(DEPTHS)
        ]
        return torch.cat([of_face, *of_layers], dim=1)


class Former(nn.Module):
    """Version 1.1's projector: tokens that look at the face and at one layer of EVA-CLIP after the other."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.empty(shapes["latents"]))
        self.proj_out = nn.Parameter(torch.empty(shapes["proj_out"]))
        self.id_embedding_mapping = _mapping(shapes, "id_embedding_mapping")
        for n in range(DEPTHS):
            self.add_module(f"mapping_{n}", _mapping(shapes, f"mapping_{n}"))
        width = shapes["latents"][2]
        each = sum(name.endswith(".0.to_q.weight") for name in shapes)
        inner, wide = shapes["layers.0.0.to_q.weight"][0], shapes["layers.0.1.1.weight"][0]
        self.layers = nn.ModuleList(
            nn.ModuleList([_Looking(width, inner), _widening(width, wide)]) for _ in range(each)
        )

    def forward(self, faces: Tensor, depths: Tensor) -> Tensor:
        """Tokens "1 N D" of faces "1 n 1280" and layers "1 5 N 1024"."""
        latents = self.latents
        face = self.id_embedding_mapping(faces).reshape(1, -1, latents.shape[2])
        seen, each = torch.cat([latents, face], dim=1), len(self.layers) // DEPTHS
        for n in range(DEPTHS):
            context = torch.cat([face, self.get_submodule(f"mapping_{n}")(depths[:, n])], dim=1)
            for layer in self.layers[n * each : (n + 1) * each]:
                look, widen = cast(Sequence[nn.Module], layer)
                seen = look(context, seen) + seen
                seen = widen(seen) + seen
        return seen[:, : latents.shape[1]] @ self.proj_out


class _Looking(nn.Module):
    """Tokens look at a context and at each other."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, context: Tensor, tokens: Tensor) -> Tensor:
        tokens = self.norm2(tokens)
        k, v = self.to_kv(torch.cat([self.norm1(context), tokens], dim=1)).chunk(2, dim=-1)
        q = self.to_q(tokens)
        q, k, v = (_heads(one, q.shape[2] // HEAD) for one in (q, k, v))
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return cast(Tensor, self.to_out(seen))


def _widening(width: int, wide: int) -> nn.Sequential:
    down, up = nn.Linear(width, wide, bias=False), nn.Linear(wide, width, bias=False)
    return nn.Sequential(nn.LayerNorm(width), down, nn.GELU(), up)


def _mapping(shapes: Mapping[str, tuple[int, ...]], name: str) -> nn.Sequential:
    """Three linear layers, the first two normalised."""
    parts: list[nn.Module] = []
    for n in (0, 3, 6):
        outgoing, incoming = shapes[f"{name}.{n}.weight"]
        parts.append(nn.Linear(incoming, outgoing))
        if n < 6:
            parts += [nn.LayerNorm(outgoing), nn.LeakyReLU()]
    return nn.Sequential(*parts)


def _check(embedding: Embedding, start: Start) -> None:
    shapes = cast(Reading, start.match.detail).shapes
    face = shapes[_FORMER if _FORMER in shapes else "body.0.weight"][1]
    held = {name: tuple(tensor.shape) for name, tensor in embedding.items()}
    whole = sum(held.get(name, (0,))[-1] for name in (RAW_FACE, EVA))
    depths, wide = held.get(EVA_LAYERS, ()), shapes["mapping_0.0.weight"][1]
    if whole == face and depths[1:2] == (DEPTHS,) and depths[3:] == (wide,):
        return
    raise ControlError(
        f"What was made of the picture ({start.unit.module}) is not what PuLID reads",
        f"It needs {RAW_FACE}, {EVA} and {EVA_LAYERS}; there are " + (", ".join(held) or "none"),
        "Choose ip-adapter-auto or ip-adapter_pulid",
    )


def _unusable(header: Header, fault: str) -> ControlError:
    return ControlError(
        f"The PuLID {header.path.name} cannot be used",
        f"It is damaged or a variant that this extension does not know: {fault}",
        "Download it again, or choose another model",
    )


register(PuLIDFamily())
