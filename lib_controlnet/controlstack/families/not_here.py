"""Control files for other models: known by their tensors, and refused with a sentence that says what they
are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from controlstack.errors import ControlError
from controlstack.family import Family, Match, Start, register
from controlstack.joints import Control
from controlstack.weights import Header


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    what: what it is, as the end of "… is"
    telling: patterns of names; a file of this kind has a tensor for each
    """

    what: str
    telling: tuple[str, ...]

    def holds(self, names: Iterable[str]) -> bool:
        """Whether a file with these names is of this kind."""
        return all(any(re.match(pattern, name) for name in names) for pattern in self.telling)


OTHER_MODELS = (
    Kind("a ControlNet for Flux", (r"controlnet_blocks\.", r"(single_transformer|double)_blocks\.")),
    Kind("a ControlNet for Stable Diffusion 3 or 3.5", (r"controlnet_blocks\.", r"pos_embed_input\.")),
    Kind("a ControlNet for Qwen-Image", (r"controlnet_blocks\.", r"txt_norm\.")),
    Kind("a ControlNet for Sana", (r"controlnet_blocks\.", r"caption_projection\.")),
    Kind("a ControlNet for Hunyuan-DiT", (r"controlnet_blocks\.", r"text_embedding_padding")),
    Kind("a ControlNet for Z-Image", (r"control_layers\.", r"control_all_x_embedder\.")),
    Kind("a ControlNet for Cosmos", (r"control_blocks\.", r"patch_embed_base\.")),
    Kind("a ControlNet-LLLite for Anima", (r"lllite_dit_",)),
    Kind("a PuLID for Flux", (r"pulid_encoder\.", r"pulid_ca\.")),
)


class NotHere(Family):
    """Refuses every file that it knows."""

    name = "kinds that cannot be used here"

    def match(self, header: Header) -> Match | None:
        for kind in OTHER_MODELS:
            if kind.holds(header.shapes):
                raise ControlError(
                    f"{header.path.name} is {kind.what}",
                    "Only checkpoints of Stable Diffusion 1, 2 and XL can be controlled",
                    "Choose a control model that is made for the checkpoint",
                )
        return None

    def begin(self, start: Start) -> Control:
        """Never reached: `match` has refused the file."""
        raise ControlError(f"{self.name} files cannot be used")


register(NotHere())
