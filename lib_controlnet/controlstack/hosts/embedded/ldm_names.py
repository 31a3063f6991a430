"""The LDM names of a ControlNet's, a UNet's and a VAE's tensors, for writing files that every WebUI reads."""

from __future__ import annotations

from collections.abc import Collection

_FIXED = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "controlnet_mid_block": "middle_block_out.0",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}


def controlnet(names: Collection[str]) -> dict[str, str]:
    """diffusers' name -> LDM's, without the prefix `control_model.`, for all tensors of a ControlNet."""
    resnets = len({n.split(".")[3] for n in names if n.startswith("down_blocks.0.resnets.")})
    hints = len({n.split(".")[2] for n in names if n.startswith("controlnet_cond_embedding.blocks.")})
    last = {"controlnet_cond_embedding.conv_out": f"input_hint_block.{2 * hints + 2}"}
    return {name: _renamed(name, {**_FIXED, **last}, resnets) for name in names}


def unet(names: Collection[str]) -> dict[str, str]:
    """diffusers' name -> LDM's, without the prefix `model.diffusion_model.`, for all tensors of a UNet."""
    resnets = len({n.split(".")[3] for n in names if n.startswith("down_blocks.0.resnets.")})
    attended = {n.split(".")[1] for n in names if n.startswith("up_blocks.") and ".attentions." in n}
    return {
        name: _in_decoder(name, attended, resnets)
        if name.startswith("up_blocks.")
        else _renamed(name, _FIXED, resnets)
        for name in names
    }


def vae(names: Collection[str]) -> dict[str, str]:
    """diffusers' name -> LDM's, without the prefix `first_stage_model.`, for all tensors of a VAE.

    LDM counts the decoder's levels from the largest, and has 1×1 convolutions where diffusers has linear
    layers: a weight whose LDM name has `.attn_1.` and ends in a projection takes two more axes of size 1.
    """
    levels = len({n.split(".")[2] for n in names if n.startswith("decoder.up_blocks.")})
    return {name: _in_vae(name, levels) for name in names}


def _in_decoder(name: str, attended: Collection[str], resnets: int) -> str:
    _, level, kind, index, *inner = name.split(".")
    block = f"output_blocks.{int(level) * (resnets + 1) + int(index)}"
    if kind == "upsamplers":
        last = int(level) * (resnets + 1) + resnets
        return f"output_blocks.{last}.{2 if level in attended else 1}.{'.'.join(inner)}"
    inside = ".".join(inner)
    return f"{block}.0.{_in_resnet(inside)}" if kind == "resnets" else f"{block}.1.{inside}"


def _in_vae(name: str, levels: int) -> str:
    half, group, *inner = name.split(".")
    if group == "conv_norm_out":
        return f"{half}.norm_out.{inner[0]}"
    if group == "mid_block":
        kind, index, *rest = inner
        if kind == "resnets":
            return f"{half}.mid.block_{int(index) + 1}.{_vae_resnet('.'.join(rest))}"
        return f"{half}.mid.attn_1.{_VAE_ATTENTION['.'.join(rest[:-1])]}.{rest[-1]}"
    if group in ("down_blocks", "up_blocks"):
        level, kind, index, *rest = inner
        ours = f"down.{level}" if group == "down_blocks" else f"up.{levels - 1 - int(level)}"
        if kind == "resnets":
            return f"{half}.{ours}.block.{index}.{_vae_resnet('.'.join(rest))}"
        return f"{half}.{ours}.{'downsample' if kind == 'downsamplers' else 'upsample'}.{'.'.join(rest)}"
    return name


def _vae_resnet(name: str) -> str:
    return name.replace("conv_shortcut", "nin_shortcut")


_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def _renamed(name: str, fixed: dict[str, str], resnets: int) -> str:
    for ours, ldm in fixed.items():
        if name.startswith(ours + "."):
            rest = name.removeprefix(ours + ".")
            return f"{ldm}.{_in_resnet(rest) if 'resnets' in ours else rest}"
    group, *parts = name.split(".")
    if group == "controlnet_down_blocks":
        return f"zero_convs.{parts[0]}.0.{parts[1]}"
    if group == "controlnet_cond_embedding":
        return f"input_hint_block.{2 * int(parts[1]) + 2}.{parts[2]}"
    level, kind, index, *inner = parts
    if kind == "downsamplers":
        return f"input_blocks.{(int(level) + 1) * (resnets + 1)}.0.op.{inner[-1]}"
    block = f"input_blocks.{1 + int(level) * (resnets + 1) + int(index)}"
    inside = ".".join(inner)
    return f"{block}.0.{_in_resnet(inside)}" if kind == "resnets" else f"{block}.1.{inside}"


def _in_resnet(name: str) -> str:
    layer, kind = name.split(".")
    return f"{_RESNET[layer]}.{kind}"
