"""T2I style adapter: the prompt gets tokens of a picture's style (TencentARC/T2I-Adapter, Mou et al.,
arXiv 2302.08453). It reads CLIP-L's last layer, of every patch.

Prompt attention looks at the prompt's tokens and at these as if they stood behind them; rows of the negative
prompt never see them. The weight is the tokens', and those of several units stand one behind the other, as in
the incumbent. There the rows of the negative prompt get tokens of zeros, which they attend to as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from controlstack.embeddings import LAST_PATCHES
from controlstack.errors import ControlError
from controlstack.family import Family, Match, Start, register
from controlstack.joints import Attention, Call, Control, Services, Site
from controlstack.layout import ANY, Base
from controlstack.unit import Combination
from controlstack.weights import Header, read_tensors

HEADS = 8
"""What no shape tells."""


class StyleAdapterFamily(Family):
    """TencentARC's files."""

    name = "T2I style adapter"

    def match(self, header: Header) -> Match | None:
        shapes = header.shapes
        if not {"style_embedding", "proj", "ln_post.weight"} <= shapes.keys():
            return None
        base = Base(ANY, shapes["proj"][1], None, blocks=12)
        flags: dict[str, Any] = dict(embeddings=True, cond_only=True, own_weight=True)
        return Match(self, header, base, preprocessor="clip_vision", **flags)

    def load(self, match: Match, services: Services) -> nn.Module:
        header = cast(Header, match.header)
        tensors = read_tensors(header, header.shapes, dtype=services.dtype, device=services.device)
        layers = sum(bool(re.fullmatch(r"transformer_layes\.\d+\.ln_1\.weight", name)) for name in tensors)
        with torch.device("meta"):
            network = Network(tensors["style_embedding"].shape, tensors["proj"].shape[1], layers)
        try:
            network.load_state_dict(tensors, assign=True)
        except RuntimeError as error:
            raise ControlError(
                f"The T2I style adapter {header.path.name} cannot be used",
                "It is damaged or a variant that this extension does not know: "
                + " ".join(str(error).split()[6:24]),
                "Download it again, or choose another model",
            ) from error
        return network.requires_grad_(False).eval()

    def begin(self, start: Start) -> Control:
        network = cast(Network, start.model)
        for embedding in start.embeddings:
            found = embedding.get(LAST_PATCHES)
            if found is None or found.shape[-1] != network.style_embedding.shape[-1]:
                raise ControlError(
                    f"The preprocessor {start.unit.module!r} looks with another network than this adapter",
                    f"The model reads {network.style_embedding.shape[-1]} channels of {LAST_PATCHES}",
                    "Choose t2ia_style_clipvision",
                )
        seen = [embedding[LAST_PATCHES].to(network.proj) for embedding in start.embeddings]
        if start.unit.combination is Combination.AVERAGE:
            seen = [torch.stack(seen).mean(0)]
        with torch.no_grad():
            tokens = torch.cat([network(one) for one in seen], dim=1)
        return Pass([Style(tokens * start.unit.weight)])


class Network(nn.Module):
    """A transformer under TencentARC's names, in which learned tokens read the patches.

    style: shape of the learned tokens, "1 n C"
    """

    def __init__(self, style: Sequence[int], context: int, layers: int) -> None:
        super().__init__()
        _, tokens, width = style
        self.style_embedding = nn.Parameter(torch.empty(1, tokens, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer_layes = nn.Sequential(*(_Layer(width) for _ in range(layers)))
        self.proj = nn.Parameter(torch.empty(width, context))

    def forward(self, patches: Tensor) -> Tensor:
        """Prompt tokens "1 n D" of patches "1 N C"."""
        h = self.ln_pre(torch.cat([patches, self.style_embedding], dim=1))
        h = self.transformer_layes(h)[:, -self.style_embedding.shape[1] :]
        return cast(Tensor, self.ln_post(h) @ self.proj)


class _Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, h: Tensor) -> Tensor:
        normed = self.ln_1(h)
        h = h + self.attn(normed, normed, normed, need_weights=False)[0]
        wide = self.mlp["c_fc"](self.ln_2(h))
        return cast(Tensor, h + self.mlp["c_proj"](wide * torch.sigmoid(1.702 * wide)))  # CLIP's quick GELU


class Style:
    """The tokens "1 n D" of one unit in a pass, and what each attention layer makes of them."""

    def __init__(self, tokens: Tensor) -> None:
        self._tokens = tokens
        self._projected: dict[Site, tuple[Tensor, Tensor]] = {}

    def projected(self, site: Site, attention: Attention) -> tuple[Tensor, Tensor]:
        """Keys and values "1 n C", made once in a pass."""
        if site not in self._projected:
            with torch.no_grad():
                self._projected[site] = attention.project(self._tokens.to(attention.k))
        return self._projected[site]


class Pass(Control):
    """Units that act as one in a pass."""

    def __init__(self, styles: Sequence[Style]) -> None:
        self._styles = styles

    def fuses(self, other: Control) -> bool:
        return isinstance(other, Pass)

    def together(self, parts: Sequence[tuple[Control, float]]) -> Control:
        return Pass([style for part, _ in parts for style in cast(Pass, part)._styles])

    def attended(self, site: Site, attention: Attention, call: Call) -> Tensor | None:
        if not site.cross:
            return None
        pairs = [style.projected(site, attention) for style in self._styles]
        rows = len(attention.k)
        keys = torch.cat([attention.k, *(k.expand(rows, -1, -1) for k, _ in pairs)], dim=1)
        values = torch.cat([attention.v, *(v.expand(rows, -1, -1) for _, v in pairs)], dim=1)
        return attention.over(keys, values) - attention.out


register(StyleAdapterFamily())
