"""The network of ControlNet and its relatives: a copy of the UNet's encoder that reads a picture too, and
puts out what zero convolutions make of its features (Zhang et al., arXiv 2302.05543)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from controlstack.errors import ControlError
from controlstack.joints import Call, Control, Residuals
from controlstack.layout import EncoderLayout, controlnet_names
from controlstack.weights import Header

Shapes = Mapping[str, tuple[int, ...]]


def names(shapes: Shapes) -> tuple[str, Mapping[str, str]] | None:
    """The prefix of a file's names, and diffusers' name -> the file's; None for a file of other networks."""
    if "controlnet_cond_embedding.conv_in.weight" in shapes:
        return "", {name: name for name in shapes}
    for prefix in ("", "control_model."):
        if {f"{prefix}input_hint_block.0.weight", f"{prefix}zero_convs.0.0.weight"} <= shapes.keys():
            return prefix, controlnet_names(shapes, prefix)
    return None


def layout(header: Header, shapes: Shapes) -> EncoderLayout:
    """The layout of a file with tensors of these shapes under diffusers' names. Raises ControlError if it is
    broken, or of a network that reads something else than pictures and latents."""
    found = EncoderLayout.read(shapes, header.metadata)
    if found.hint[0] != 3 or found.in_channels != 4:
        raise ControlError(
            f"The ControlNet {header.path.name} cannot be used",
            f"It reads {found.hint[0]} hint and {found.in_channels} latent channels, not 3 and 4",
            "Choose another model",
        )
    return found


def check(header: Header, expected: Shapes, held: Shapes, unknown: Collection[str] = ()) -> None:
    """Raises ControlError unless a file has every tensor of its network, in the right size, and no other.

    held: what it has, under the network's names
    unknown: its names for what it has beside that
    """
    faults = {
        "it lacks": expected.keys() - held.keys(),
        "it has the unknown": (held.keys() - expected.keys()) | set(unknown),
        "of the wrong size are": {
            name for name in expected.keys() & held.keys() if expected[name] != held[name]
        },
    }
    for fault, wrong in faults.items():
        if wrong:
            more = f" and {len(wrong) - 3} more tensors" if len(wrong) > 3 else ""
            raise ControlError(
                f"The ControlNet {header.path.name} cannot be used",
                "It is damaged or a variant that this extension does not know: "
                f"{fault} {', '.join(sorted(wrong)[:3])}{more}",
                "Download it again, or choose another model",
            )


def build(layout: EncoderLayout) -> nn.Module:
    """diffusers' `ControlNetModel` of this layout, without weights."""
    from diffusers import ControlNetModel

    with torch.device("meta"):
        return cast(nn.Module, ControlNetModel(**layout.controlnet_config()))


def shapes_of(net: nn.Module) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a network's tensors."""
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


class Network(nn.Module):
    """A `ControlNetModel` in two parts: the hint encoder runs once in a pass, the rest at each evaluation."""

    def __init__(self, net: Any, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        net.load_state_dict(weights, assign=True)
        net.requires_grad_(False).eval()  # torch 2.1 makes whatever it assigns require gradients
        self.hint_encoder: nn.Module = net.controlnet_cond_embedding
        net.controlnet_cond_embedding = nn.Identity()
        self.vector = net.config.addition_embed_type is not None
        if self.vector:
            # Hosts hand over LDM's finished vector. diffusers makes it of text_embeds and the sinusoids of
            # time_ids; without the sinusoids it only joins the two halves again.
            net.add_time_proj = nn.Identity()
        self.net: nn.Module = net

    def embed(self, hint: Tensor) -> Tensor:
        """What the copy reads beside the latents, "1 C h w", of a hint "1 3 H W"."""
        with torch.no_grad():
            return cast(Tensor, self.hint_encoder(hint.to(next(self.hint_encoder.parameters()))))

    def evaluate(self, call: Call, embedded: Tensor, labels: Tensor | None = None) -> Residuals:
        """The residuals of a call.

        labels: "R|1 A", added to the embedding of the timestep
        """
        added = None
        if self.vector:
            y = cast(Tensor, call.y).to(embedded)
            added = {"text_embeds": y[:, :1], "time_ids": y[:, 1:]}
        with torch.no_grad():
            skips, middle = self.net(
                call.x.to(embedded),
                call.t.to(embedded.device),
                call.context.to(embedded),
                embedded,
                class_labels=labels,
                added_cond_kwargs=added,
                return_dict=False,
            )
        return Residuals(tuple(skip.to(call.x) for skip in skips), middle.to(call.x))


class Pass(Control):
    """One network in one sampling pass."""

    def __init__(self, network: Network, hint: Tensor, *, pooled: bool = False) -> None:
        self._network, self._pooled = network, pooled
        self._hint = network.embed(hint)

    def residuals(self, call: Call) -> Residuals:
        given = self._network.evaluate(call, self._hint)
        if not self._pooled:
            return given
        return Residuals(tuple(map(_pool, given.skips)), _pool(cast(Tensor, given.middle)))


def _pool(feature: Tensor) -> Tensor:
    """The average over the picture, at its full size."""
    return feature.mean((2, 3), keepdim=True).expand_as(feature)
