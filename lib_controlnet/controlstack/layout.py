"""The shelf of layouts: what the encoder half of a UNet looks like, by the names and shapes of its tensors.

Everything is read from diffusers' names; `controlnet_names` and `unet_names` find them in files with the
names of the original LDM code. No size is assumed, so nets of any width load.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from controlstack.errors import ControlError

HEADS, GROUPS = "num_attention_heads", "norm_num_groups"
"""What leaves no trace in the shapes: a safetensors file may give them in its metadata, as JSON. Heads are
one int, or a list with one for each level."""

ANY = 0
"""The width of a conditioning that a control made for SDXL does not look at."""


@dataclass(frozen=True)
class Base:
    """What a checkpoint is, or what a control file was made for.

    width: channels of the first level; `ANY` for a control that sees the prompt alone
    context: channels of the prompt tokens; None where nothing attends to them
    vector: channels of SDXL's vector conditioning, else None; `ANY` for a control that does not see it
    blocks: how many skips the encoder hands to the decoder
    extra: channels that a checkpoint reads beside the latents: 5 for inpainting, 1 for depth, 4 for
        InstructPix2Pix; controls do not see them
    """

    width: int
    context: int | None
    vector: int | None
    blocks: int
    extra: int = 0

    @property
    def name(self) -> str:
        """The name people know it by."""
        if self.vector is not None:
            return "SDXL"
        if self.context is None:
            return "SD1.x or SD2.x"
        return {768: "SD1.x", 1024: "SD2.x"}.get(self.context, f"a base model of context {self.context}")

    def __str__(self) -> str:
        numbers = {"width": self.width, "context": self.context, "vector": self.vector, "skips": self.blocks}
        return f"{self.name} ({', '.join(f'{key} {n}' for key, n in numbers.items() if n)})"

    def mismatch(self, other: Base) -> str | None:
        """Why a control made for this base cannot act on a UNet of that one; None when it can."""
        contexts = {self.context, other.context} - {None}  # SDXL's small ControlNets attend to nothing
        vectors = (self.vector, other.vector)
        vector_fits = self.vector == other.vector or (ANY in vectors and None not in vectors)
        widths = {self.width, other.width} - {ANY}
        fits = len(widths) == 1 and self.blocks == other.blocks and vector_fits
        return None if fits and len(contexts) < 2 else f"It is made for {self}, but the checkpoint is {other}"


@dataclass(frozen=True)
class EncoderLayout:
    """The encoder of a UNet or of a ControlNet.

    channels: the width of each level
    resnets: how many in each level
    depth: per level, the transformer blocks behind each resnet; 0 means no attention
    middle: transformer blocks of the middle block; 0 means that it is one resnet without attention
    heads: attention heads, per level
    groups: of the group norms
    linear: whether linear layers, not 1×1 convolutions, lead into and out of the transformers
    out_channels: of a UNet, None for a ControlNet
    hint: channels along a ControlNet's hint encoder, the picture's first; empty for a UNet
    """

    in_channels: int
    channels: tuple[int, ...]
    resnets: int
    depth: tuple[int, ...]
    middle: int
    heads: tuple[int, ...]
    groups: int
    linear: bool
    context: int | None
    vector: int | None
    out_channels: int | None
    hint: tuple[int, ...]

    @classmethod
    def read(cls, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> EncoderLayout:
        """The layout of tensors with diffusers' names. Raises ControlError if they make no encoder."""
        try:
            return cls._read(shapes, metadata)
        except (KeyError, IndexError, ValueError) as error:
            raise ControlError(
                "The file is damaged or of an unknown layout", f"Reading its tensors stops at {error}"
            ) from error

    @classmethod
    def _read(cls, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> EncoderLayout:
        levels = _count(shapes, "down_blocks.{}.resnets.0.conv1.weight")
        channels = tuple(shapes[f"down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels))
        block = "attentions.0.transformer_blocks.{}.attn2.to_k.weight"
        context = next(
            (shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")), None
        )
        linear = any(name.endswith(".proj_in.weight") and len(shape) == 2 for name, shape in shapes.items())
        vector = (
            shapes["add_embedding.linear_1.weight"][1] if "add_embedding.linear_1.weight" in shapes else None
        )
        heads = _heads(channels, context, vector, linear, metadata.get(HEADS))
        # 32 groups in every published net; one too narrow for that gets what divides its widths.
        groups = int(metadata.get(GROUPS, math.gcd(32, *channels)))
        if not channels or len(heads) != levels or any(width % groups for width in channels):
            raise ValueError(f"widths {channels} with {heads} heads and {groups} groups")
        return cls(
            in_channels=shapes["conv_in.weight"][1],
            channels=channels,
            resnets=_count(shapes, "down_blocks.0.resnets.{}.conv1.weight"),
            depth=tuple(_count(shapes, f"down_blocks.{i}.{block}") for i in range(levels)),
            middle=_count(shapes, f"mid_block.{block}"),
            heads=heads,
            groups=groups,
            linear=linear,
            context=context,
            vector=vector,
            out_channels=shapes["conv_out.weight"][0] if "conv_out.weight" in shapes else None,
            hint=_hint(shapes),
        )

    @property
    def base(self) -> Base:
        """conv_in, every resnet and every downsampler hand one skip to the decoder."""
        return Base(self.channels[0], self.context, self.vector, len(self.channels) * (self.resnets + 1))

    def controlnet_config(self) -> dict[str, Any]:
        """Arguments of diffusers' `ControlNetModel`."""
        return {
            **self._config(),
            "conditioning_channels": self.hint[0],
            "conditioning_embedding_out_channels": self.hint[1:],
        }

    def unet_config(self) -> dict[str, Any]:
        """Arguments of diffusers' `UNet2DConditionModel`."""
        up = ("CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(self.depth))
        return {**self._config(), "out_channels": self.out_channels, "up_block_types": tuple(up)}

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "in_channels": self.in_channels,
            "block_out_channels": self.channels,
            "layers_per_block": self.resnets,
            "down_block_types": tuple(
                "CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in self.depth
            ),
            "mid_block_type": "UNetMidBlock2DCrossAttn" if self.middle else "UNetMidBlock2D",
            # The last number is the middle block's too; levels without attention do not look at theirs.
            "transformer_layers_per_block": tuple(
                depth or 1 for depth in (*self.depth[:-1], self.depth[-1] or self.middle)
            ),
            "attention_head_dim": self.heads,  # diffusers' misnomer: the number of heads
            "use_linear_projection": self.linear,
            "norm_num_groups": self.groups,
        }
        if self.context is not None:
            config["cross_attention_dim"] = self.context
        if self.vector is not None:
            config["addition_embed_type"] = "text_time"
            config["addition_time_embed_dim"] = 256  # SDXL: 2816 = 1280 + 6 sizes × 256
            config["projection_class_embeddings_input_dim"] = self.vector
        return config


def controlnet_names(names: Iterable[str], prefix: str = "") -> dict[str, str]:
    """diffusers' name -> the file's name, for the tensors of an LDM ControlNet behind `prefix`."""
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    ldm = _behind(names, prefix)
    found = convert_controlnet_checkpoint(ldm, {"layers_per_block": _resnets(ldm)})
    for ours, theirs in ((1, 0), (2, 2)):  # SDXL's vector conditioning, which the converter leaves out
        for kind in ("weight", "bias"):
            found[f"add_embedding.linear_{ours}.{kind}"] = ldm.get(f"label_emb.0.{theirs}.{kind}")
    return {name: source for name, source in found.items() if source is not None}


def unet_names(names: Iterable[str], prefix: str = "model.diffusion_model.") -> dict[str, str]:
    """diffusers' name -> the file's name, for the tensors of an LDM UNet behind `prefix`."""
    from diffusers.loaders.single_file_utils import LDM_UNET_KEY, convert_ldm_unet_checkpoint

    ldm = _behind(names, prefix)
    config: dict[str, object] = {"layers_per_block": _resnets(ldm)}
    if "label_emb.0.0.weight" in ldm:
        config["addition_embed_type"] = "text_time"
    found = convert_ldm_unet_checkpoint({LDM_UNET_KEY + name: source for name, source in ldm.items()}, config)
    return {name: source for name, source in found.items() if source is not None}


def _behind(names: Iterable[str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}


def _resnets(ldm: Mapping[str, str]) -> int:
    """Resnets per level: LDM's input block 0 is the first convolution, and a downsampler ends a level."""
    blocks = len({name.split(".")[1] for name in ldm if name.startswith("input_blocks.")})
    return next((i for i in range(blocks) if f"input_blocks.{i}.0.op.weight" in ldm), blocks) - 1


def _count(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    """How many of pattern.format(0), pattern.format(1) … there are."""
    count = 0
    while pattern.format(count) in shapes:
        count += 1
    return count


def _heads(
    channels: tuple[int, ...], context: int | None, vector: int | None, linear: bool, given: str | None
) -> tuple[int, ...]:
    """Heads leave no trace in the shapes: SD1 has 8 at any width, SD2 and SDXL have heads of 64 channels."""
    if given is not None:
        heads = json.loads(given)
        return (heads,) * len(channels) if isinstance(heads, int) else tuple(heads)
    if vector is not None or context == 1024 or (linear and context != 768):
        return tuple(max(1, width // 64) for width in channels)
    return (8,) * len(channels)


def _hint(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The hint encoder: a convolution, pairs of which the second changes the width, the zero convolution."""
    first = shapes.get("controlnet_cond_embedding.conv_in.weight")
    if first is None:
        return ()
    blocks = "controlnet_cond_embedding.blocks.{}.weight"
    widths = (shapes[blocks.format(i)][0] for i in range(1, _count(shapes, blocks), 2))
    return (first[1], first[0], *widths)
