"""A model that was trained with a LoRA asks for it by its name, unless the prompt has it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nets
import pytest
import torch
from safetensors.torch import save_file

from controlstack.embeddings import FACE
from controlstack.hosts import unet_diffusers
from controlstack.hosts.webui import WebUI

LORA = "ip-adapter-faceid_sd15_lora"


class Host(WebUI):
    """A WebUI with a folder of models that never comes to painting."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.unet = folder, nets.unet(nets.NARROW)
        super().__init__()

    lock: AbstractContextManager[Any] = threading.Lock()  # type: ignore[assignment]

    def option(self, key: str, default: object) -> Any:
        return default

    def flag(self, key: str) -> Any:
        return None

    def model_folders(self) -> Sequence[Path]:
        return [self.folder]

    def base(self, p: Any) -> Any:
        return unet_diffusers.base_of(self.unet)

    def services(self, p: Any) -> Any:
        return unet_diffusers.LiveUNet(self.unet)

    def attach(self, p: Any, session: Any) -> Any:
        raise AssertionError("nothing is painted here")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """With a FaceID for SD1's attention layers."""
    made = Host(tmp_path)
    tensors = {
        "image_proj.proj.0.weight": torch.zeros(16, 8),
        "image_proj.proj.2.weight": torch.zeros(160, 16),
        "image_proj.norm.weight": torch.zeros(40),
    }
    for number, name in enumerate(made.unet.attn_processors):
        if "attn2" in name:
            layer: Any = made.unet.get_submodule(name.removesuffix(".processor"))
            for role in ("to_k_ip", "to_v_ip", "to_q_lora.down"):
                tensors[f"ip_adapter.{number}.{role}.weight"] = torch.zeros(layer.to_k.weight.shape)
    save_file(tensors, tmp_path / "face.safetensors")
    made.catalog.refresh()
    return made


def comments(host: Host, prompt: str) -> list[str]:
    said: list[str] = []
    p = SimpleNamespace(
        **dict(width=64, height=64, n_iter=1, batch_size=1, seed=1, subseed=1, subseed_strength=0),
        **dict(prompt=prompt, all_prompts=[prompt], all_negative_prompts=[""]),
        **dict(all_seeds=[1], all_subseeds=[1]),
        **dict(extra_generation_params={}, comment=said.append, init_images=None),
    )
    host.process(p, [{"model": "face", "ipadapter_input": [{FACE: torch.ones(1, 8)}]}])
    assert "ControlNet error" not in p.extra_generation_params
    return said


def test_it_is_offered_by_its_name(host: Host) -> None:
    (said,) = comments(host, "a woman <lora:other:1>")
    assert said.startswith("Unit 0: ")
    assert f"<lora:{LORA}:0.6>" in said


def test_a_prompt_that_has_it_hears_nothing(host: Host) -> None:
    assert comments(host, f"a woman <lora:{LORA}:0.7>") == []
