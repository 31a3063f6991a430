"""An extension for tests: shows over HTTP what happens in a real WebUI's UNet."""

from __future__ import annotations

import os
import threading
from copy import copy
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pydantic
import torch
from diffusers import ControlNetModel
from modules import processing, script_callbacks, scripts, shared
from modules.api.api import encode_pil_to_base64

CALLS = Path(os.environ.get("CONTROLSTACK_WATCH", "."))
seen: dict[str, Any] = {}


def forget() -> None:
    seen.update(network_calls=0, unet_calls=0, rows=[], record="", fail_at=0, interrupt_at=0)


forget()


def unet() -> Any:
    """An empty module before Forge has loaded a checkpoint, which it does for the first job."""
    model = shared.sd_model
    patched = model.forge_objects.unet if hasattr(model, "forge_objects") else model
    return patched.model.diffusion_model if hasattr(patched, "model") else torch.nn.Module()


def before(module: Any, args: Any) -> None:
    if isinstance(module, ControlNetModel):
        seen["network_calls"] += 1
        seen["rows"].append(len(args[0]))
    elif module is unet():
        seen["unet_calls"] += 1
        if seen["unet_calls"] == seen["fail_at"]:
            raise torch.cuda.OutOfMemoryError("out of memory, says the watch")
        if seen["unet_calls"] == seen["interrupt_at"]:
            shared.state.interrupt()


def after(module: Any, args: Any, output: Any) -> None:
    """Keep what a ControlNet was given in the recorded call, and its residuals."""
    if Watch.recording is not None and isinstance(module, ControlNetModel):
        kept = dict(zip(("x", "timesteps", "context", "hint"), args, strict=False))
        kept |= {f"skip {i}": skip for i, skip in enumerate(output[0])} | {"middle": output[1]}
        torch.save(kept, CALLS / f"control{Watch.controls}.pt")
        Watch.controls += 1


torch.nn.modules.module.register_module_forward_pre_hook(before)
torch.nn.modules.module.register_module_forward_hook(after)


class Watch(scripts.Script):
    """Does to a job what its prompt says."""

    recording: Any = None
    controls = 0

    def title(self) -> str:
        return "Watch"

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def process_before_every_sampling(self, p: Any, *args: Any, **kwargs: Any) -> None:
        seen["fail_at"] = seen["unet_calls"] + 2 if "fail in the UNet" in p.prompt else 0
        seen["interrupt_at"] = seen["unet_calls"] + 2 if "interrupt me" in p.prompt else 0
        if "record me" in p.prompt and Watch.recording is None:
            Watch.recording, Watch.controls = unet().register_forward_hook(record, with_kwargs=True), 0

    def post_sample(self, p: Any, samples: Any, *args: Any) -> None:
        """What the VAE will be given, which no host has rounded yet."""
        if "keep the latents" in p.prompt:
            torch.save(torch.stack([*samples.samples]).float().cpu(), CALLS / "latents.pt")

    def postprocess_image(self, p: Any, pp: Any, *args: Any) -> None:
        """A job inside the job, as ADetailer has it."""
        if "a job inside" in p.prompt:
            inner = copy(p)
            inner.prompt, inner.n_iter, inner.batch_size = "inner", 1, 1
            processing.process_images(inner)
            inner.close()


def record(module: Any, args: Any, kwargs: Any, output: Any) -> None:
    """Keep one call of the UNet with controls: what came in and what came out."""
    names = ("x", "timesteps", "context", "y")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    tensors = {name: value.cpu() for name, value in given.items() if isinstance(value, torch.Tensor)}
    torch.save(tensors, CALLS / "call.pt")
    torch.save(output.cpu(), CALLS / "output.pt")
    Watch.recording.remove()
    Watch.recording = None


def look() -> dict[str, Any]:
    modules = list(unet().modules())
    facts = {name: value for name, value in seen.items() if name in ("network_calls", "unet_calls", "rows")}
    facts["hooks"] = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)
    facts["callbacks"] = len(script_callbacks.callback_map["callbacks_cfg_denoiser"])
    facts["threads"] = threading.active_count()
    facts["dtype"] = str(next(unet().parameters(), torch.empty(0)).dtype)
    facts["forge"] = find_spec("modules_forge") is not None
    facts["pydantic"] = int(pydantic.VERSION.partition(".")[0])
    facts["useragent"] = shared.opts.api_useragent
    facts["external_code"] = _origin("lib_controlnet.external_code") if facts["forge"] else None
    if Path("/proc/self/statm").exists():
        facts["handles"] = len(list(Path("/proc/self/fd").iterdir()))
        facts["memory"] = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    forget()
    return facts


def _origin(name: str) -> str:
    """What other extensions get by this name."""
    return str(import_module(name).__name__)


def without_scripts(job: dict[str, Any]) -> str:
    p = processing.StableDiffusionProcessingTxt2Img(sd_model=shared.sd_model, **job)
    return encode_pil_to_base64(processing.process_images(p).images[0]).decode()


def started(page: Any, app: Any) -> None:
    app.add_api_route("/watch", look, methods=["GET"])
    app.add_api_route("/watch/without_scripts", without_scripts, methods=["POST"])


script_callbacks.on_app_started(started)
