"""Where a control may touch a UNet, and what passes through there.

A host turns its own UNet call into a `Call`; a control answers with *changes*, tensors that the schedule
scales and the host adds, and never adds them to anything itself. Index 0 is the first encoder block
everywhere. `docs/adr/0002-joints.md` says how each kind of UNet serves each joint.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import zip_longest
from typing import Literal, NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor


class RowKind(Enum):
    """What the prompt of a batch row asks for."""

    COND = "cond"
    UNCOND = "uncond"
    UNCOND_IMAGE = "uncond with the picture kept"
    """InstructPix2Pix evaluates a third row: the negative prompt with the input picture."""


@dataclass(frozen=True)
class Row:
    """One row of a UNet batch: `image` is the picture of the batch, `prompt` the index of its AND-prompt."""

    image: int
    kind: RowKind = RowKind.COND
    prompt: int = 0


class Block(NamedTuple):
    """A block of the UNet by LDM's names: ("input", i), ("middle", 0), ("output", j)."""

    part: str
    nth: int


class Site(NamedTuple):
    """An attention layer: the nth transformer block in a block, attending to itself or to the prompt."""

    block: Block
    nth: int
    cross: bool


Role = Literal["q", "k", "v"]
"""The three projections of an attention layer."""


@dataclass(frozen=True)
class Attention:
    """One attention layer at work.

    q, k, v: "R N C" and twice "R M C", projected
    out: "R N C", its result in front of the output projection
    heads: into which C is cut
    project: makes keys and values "R n C" of prompt tokens "R n D", as the layer itself does
    """

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    heads: int
    project: Callable[[Tensor], tuple[Tensor, Tensor]] = field(repr=False, compare=False)

    def take(self, index: Sequence[int]) -> Attention:
        """The same with only these rows."""
        at = row_index(index)
        return replace(self, q=self.q[at], k=self.k[at], v=self.v[at], out=self.out[at])

    def over(self, k: Tensor, v: Tensor) -> Tensor:
        """What the queries see in other keys and values "R|1 M C", as "R N C"."""
        q, k, v = (self._split(tensor.to(self.q)) for tensor in (self.q, k, v))
        k, v = k.expand(len(q), -1, -1, -1), v.expand(len(q), -1, -1, -1)
        seen = F.scaled_dot_product_attention(q, k, v)
        return seen.transpose(1, 2).flatten(2)

    def _split(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(*tensor.shape[:2], self.heads, -1).transpose(1, 2)


@dataclass(frozen=True)
class Prediction:
    """What the UNet's output means at a timestep: x = signal · x0 + noise · ε, both "R 1 1 1".

    kind: "epsilon", "v_prediction" or "sample", diffusers' names, or "edm": Karras et al., arXiv 2206.00364,
        where x is c_in · (x0 + σ · ε) and the output F of x0 = c_skip · (x0 + σ · ε) + c_out · F
    """

    signal: Tensor
    noise: Tensor
    kind: str = "epsilon"

    @classmethod
    def at(cls, t: Tensor, levels: Tensor, kind: str) -> Prediction:
        """At timesteps "R" of a schedule with these `noise_levels`. Between two steps they go straight, as in
        k-diffusion's `DiscreteSchedule.t_to_sigma`."""
        levels, t = levels.to(t.device), t.float().clamp(0, len(levels) - 1)
        low, high = t.floor().long(), t.ceil().long()
        sigma = torch.lerp(levels[low], levels[high], t - low).exp().reshape(-1, 1, 1, 1)
        return cls(1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt(), kind)

    def denoised(self, x: Tensor, output: Tensor) -> Tensor:
        """x0 from the output. v = signal · ε - noise · x0 (Salimans and Ho, arXiv 2202.00512)."""
        if self.kind == "sample":
            return output
        if self.kind == "v_prediction":
            return self.signal * x - self.noise * output
        if self.kind == "edm":
            return self._spread * ((1 - self.noise**2).sqrt() * x + self.noise * output)
        return (x - self.noise * output) / self.signal

    def output_change(self, change: Tensor) -> Tensor:
        """How much the output changes when x0 changes by so much."""
        if self.kind == "sample":
            return change
        if self.kind == "v_prediction":
            return -change / self.noise
        if self.kind == "edm":
            return change / (self._spread * self.noise)
        return -change * self.signal / self.noise

    def noised(self, x0: Tensor, noise: Tensor) -> Tensor:
        """x0 with as much noise as the timestep has."""
        return self.signal * x0 + self.noise * noise

    @property
    def _spread(self) -> Tensor:
        """EDM's spread of the data: (spread · signal)² + noise² = 1."""
        return (1 - self.noise**2).sqrt() / self.signal


def noise_levels(alphas_cumprod: Tensor) -> Tensor:
    """The logarithm of noise / signal at each timestep of a schedule. On the CPU: MPS has no float64."""
    return ((1 / alphas_cumprod.cpu().double() - 1).log() / 2).float()


@dataclass(frozen=True)
class Call:
    """One evaluation of the UNet, its rows in the host's own order.

    x: "R 4 h w", latent cells, scaled as the UNet sees it, without the extra channels of inpaint or depth
        checkpoints
    t: "R", timesteps 0..999, fractional with k-diffusion samplers
    context: "R L D", the prompt tokens
    y: "R A", the vector conditioning of SDXL (pooled prompt, then the sinusoidal sizes), else None
    span: the evaluation's share of its sampling pass, (i/N, (i+1)/N) for evaluation i of N. Second-order
        samplers evaluate twice in a step and both count. An adaptive sampler knows no N: there both ends are
        how far the noise level has come down, 0..1
    hires: whether this is the high-resolution pass of hires fix
    shadow: runs the UNet once more with the controls off, for a listener
    """

    x: Tensor
    t: Tensor
    context: Tensor
    y: Tensor | None
    rows: tuple[Row, ...]
    span: tuple[float, float] = (0.0, 1.0)
    hires: bool = False
    shadow: Shadow | None = field(default=None, repr=False, compare=False)

    def take(self, index: Sequence[int]) -> Call:
        """The same evaluation with only these rows; itself when that is all of them."""
        if len(index) == len(self.rows):
            return self
        at = row_index(index)
        return replace(
            self,
            x=self.x[at],
            t=self.t[at],
            context=self.context[at],
            y=None if self.y is None else self.y[at],
            rows=tuple(self.rows[i] for i in index),
        )


def row_index(index: Sequence[int]) -> slice | list[int]:
    """Some rows as an index into a tensor: a slice where they lie together, which costs a GPU no waiting."""
    together = list(index) == list(range(index[0], index[-1] + 1))
    return slice(index[0], index[-1] + 1) if together else list(index)


@dataclass(frozen=True)
class Residuals:
    """What controls add to the UNet's encoder features.

    skips: "R C h w" each, added to what the decoder receives from encoder block i
    middle: "R C h w", added to the output of the middle block
    encoder: block index -> "R C h w", added to the output of that encoder block, where the next block sees
        it too
    """

    skips: tuple[Tensor, ...] = ()
    middle: Tensor | None = None
    encoder: Mapping[int, Tensor] | None = None

    def __add__(self, other: Residuals) -> Residuals:
        """The sum of two controls of the same UNet, as new tensors: a control may hand out cached ones."""
        ours, theirs = self.encoder or {}, other.encoder or {}
        encoder = {block: _sum(ours.get(block), theirs.get(block)) for block in {*ours, *theirs}}
        return Residuals(
            tuple(_sum(*pair) for pair in zip_longest(self.skips, other.skips)),
            None if self.middle is other.middle is None else _sum(self.middle, other.middle),
            encoder or None,
        )


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor:
    """a + b, where one of them may be missing."""
    return cast(Tensor, b if a is None else a if b is None else a + b)


class Services(Protocol):
    """What a host offers to families while a job runs."""

    @property
    def device(self) -> torch.device:
        """Where the UNet runs."""

    @property
    def dtype(self) -> torch.dtype:
        """What the UNet computes in."""

    @property
    def checkpoint(self) -> Hashable:
        """Which weights the live UNet has: another value when it gets others."""

    @property
    def sites(self) -> Sequence[Site]:
        """The attention layers of the live UNet."""

    def weight(self, name: str) -> Tensor | None:
        """A dequantised tensor of the live UNet by its name in diffusers' layout, None where it has no such
        tensor."""

    def prediction(self, t: Tensor) -> Prediction:
        """What the UNet's output means at the timesteps "R"."""

    def encode(self, picture: Tensor) -> Tensor:
        """The latents "B 4 h w", scaled as the UNet sees them, of pictures "B 3 H W", 0..1: the VAE's mean.

        Only before a pass starts: hosts that save memory would have to swap the UNet out.
        """


class Listener(Protocol):
    """Who hears what happens inside a shadow pass."""

    def attended(self, site: Site, attention: Attention) -> Tensor | None:
        """An attention layer ran."""

    def leaving(self, block: Block, h: Tensor) -> Tensor | None:
        """A block put out h "R C h w"."""


Shadow = Callable[[Tensor, Sequence[int], Listener], None]
"""One more pass through the UNet with the controls off: runs latents "S 4 h w" with the timestep and prompt
of these S rows of the evaluation, and has the listener hear it."""


class Control:
    """One unit in one sampling pass. A family overrides the joints it uses; each answers with a change for
    every row of the call, not yet weighted, or with None where it changes nothing.
    """

    def residuals(self, call: Call) -> Residuals | None:
        """What is added to the encoder's features."""

    def projected(self, site: Site, role: Role, h: Tensor, call: Call) -> Tensor | None:
        """A change of what one projection of an attention layer reads, "R N C"."""

    def attended(self, site: Site, attention: Attention, call: Call) -> Tensor | None:
        """A change "R N C" of an attention layer's result in front of the output projection."""

    def entering(self, block: Block, h: Tensor, call: Call) -> Tensor | None:
        """A change of what a block reads, "R C h w"."""

    def leaving(self, block: Block, h: Tensor, call: Call) -> Tensor | None:
        """A change of what a block puts out, "R C h w"."""

    def timestep(self, embedding: Tensor, call: Call) -> Tensor | None:
        """A change of the embedding "R E" of the timestep, before SDXL's vector is added."""

    def prompt(self, call: Call) -> Tensor | None:
        """A change of the prompt tokens "R L D" that the UNet reads."""

    def vector(self, call: Call) -> Tensor | None:
        """A change of SDXL's vector conditioning, "R A"."""

    def channels(self, call: Call) -> Tensor | None:
        """The extra channels "R c h w" of an inpaint or depth checkpoint, in place of the host's."""

    def denoised(self, x0: Tensor, call: Call) -> Tensor | None:
        """A change of the predicted picture x0 "R 4 h w", latent."""

    def start(self, x: Tensor) -> Tensor | None:
        """A change of the noise that the pass starts from, "B 4 h w"; pure noise has spread 1."""

    def picture(self, picture: Tensor, index: int) -> Tensor | None:
        """A decoded picture "3 H W", 0..1, in place of the batch's picture `index`."""

    def shadow(self, call: Call) -> Tensor | None:
        """Latents "R 4 h w" to run through the UNet with controls off, before this evaluation. There may be
        several sets of R, one behind the other, and all channels that the UNet reads instead of 4."""

    def overheard(self, site: Site, attention: Attention) -> None:
        """An attention layer of the shadow pass, with the rows of one's own latents."""

    def overheard_block(self, block: Block, h: Tensor) -> None:
        """A block's output in the shadow pass, with the rows of one's own latents."""

    def fuses(self, other: Control) -> bool:
        """Whether one call of the network can serve both controls, where their strengths differ in weight
        alone."""
        return False

    def together(self, parts: Sequence[tuple[Control, float]]) -> Control:
        """All of these controls, with their weights, in one."""
        raise NotImplementedError

    def layer(self, place: Site | Block) -> int:
        """Which of the unit's per-layer weights holds at a place other than the encoder's features."""
        raise NotImplementedError(place)


def joints(control: Control) -> frozenset[str]:
    """The joints that a control uses, by their names: the methods that its family overrides."""
    own = type(control)
    return frozenset(
        name for name in vars(Control) if name[0] != "_" and getattr(own, name) is not getattr(Control, name)
    )
