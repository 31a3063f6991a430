"""What control costs in time and memory, beside diffusers' own pipelines: `python -m controlstack.bench`.

`docs/benchmark.md` says what is measured and how to read it. `python -m controlstack.bench adherence`
measures how well pictures follow their hints instead.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any, cast

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from controlstack import plan, preprocess
from controlstack.catalog import Catalog
from controlstack.hosts import unet_diffusers
from controlstack.session import Session
from controlstack.sources import Job
from controlstack.unit import parse
from controlstack.weights import Loaded

BASES: dict[str, dict[str, Any]] = {
    "sd15": dict(cross_attention_dim=768, attention_head_dim=8),
    "sdxl": dict(
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        cross_attention_dim=2048,
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    ),
    "tiny": dict(block_out_channels=(32, 64, 64, 64), cross_attention_dim=32, attention_head_dim=8),
}
TINY_VAE = dict(
    block_out_channels=(8,) * 4,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    norm_num_groups=4,
)
"""Never runs: the pipelines only ask it how many px a latent cell has."""
POOLED = 1280
"""Channels of SDXL's pooled prompt."""
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Setting:
    """One run of the benchmark; `size` in px, `steps` of one pass."""

    base: str
    size: int
    steps: int
    rounds: int
    device: str
    dtype: str

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")


@dataclass(frozen=True)
class Case:
    """What controls a pass: units of ours, as their fields, or the first `nets` nets in diffusers' pipeline.

    peer: diffusers' case of the same request
    memory: whether its memory is measured too
    """

    name: str
    units: tuple[dict[str, object], ...] = ()
    nets: int = 0
    guess_mode: bool = False
    peer: str | None = None
    memory: bool = False


def _unit(file: int = 0, **fields: object) -> dict[str, object]:
    return {"model": f"diffusion_pytorch_model.net{file}", "module": "none", **fields}


PLAIN, ONE, IMPORTANT = "plain", "1 unit", "ControlNet is more important"
THEIRS, THEIR_THREE, THEIR_GUESS = (f"diffusers: {what}" for what in ("1 net", "3 nets", "guess mode"))
CASES = (
    Case(PLAIN, memory=True),
    Case(ONE, (_unit(),), peer=THEIRS, memory=True),
    Case("3 units, 3 files", tuple(map(_unit, range(3))), peer=THEIR_THREE, memory=True),
    Case("3 units, 1 file", (_unit(),) * 3, peer=THEIR_THREE, memory=True),
    Case(IMPORTANT, (_unit(control_mode=IMPORTANT),), peer=THEIR_GUESS),
    Case("window 0-0.5", (_unit(guidance_end=0.5),)),
    Case("outside its window", (_unit(guidance_start=0.99),)),
    Case("weight 0", (_unit(weight=0.0),)),
    Case(THEIRS, nets=1),
    Case(THEIR_THREE, nets=3, memory=True),
    Case(THEIR_GUESS, nets=1, guess_mode=True),
)


@dataclass
class Measured:
    """One case.

    calls, rows: of control networks in one pass, and how many batch rows they saw in all
    flops: of one pass
    shift: mean change of the latents by control, in standard deviations of the plain pass's
    wall, cpu: seconds of one pass, one number for each round
    """

    calls: int = 0
    rows: int = 0
    flops: int = 0
    shift: float = 0.0
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


Results = dict[str, Measured]
Peaks = dict[str, dict[str, int]]


def build(kind: Any, config: dict[str, Any], setting: Setting, seed: int = 0) -> Any:
    """A net of diffusers' with random weights, made where and in the dtype in which it runs."""
    torch.manual_seed(seed)
    torch.set_default_dtype(DTYPES[setting.dtype])
    try:
        with torch.device(setting.device):
            return kind(**config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)


def write_models(setting: Setting, folder: Path) -> None:
    """Three ControlNets as diffusers stores them, with zero convolutions that are not zero."""
    from diffusers import ControlNetModel

    for i in range(3):
        net = build(ControlNetModel, BASES[setting.base], setting, seed=i + 1)
        zero = (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out)
        for conv in zero:
            nn.init.normal_(conv.weight, std=0.05)
        net.save_pretrained(folder / f"net{i}", variant=f"net{i}")


class Rig:
    """A checkpoint with random weights, and each case on it as something to call."""

    def __init__(self, setting: Setting, models: Path) -> None:
        from diffusers import AutoencoderKL, UNet2DConditionModel

        config = {**BASES[setting.base], "sample_size": 64}  # diffusers 0.31 wants one
        if down := config.get("down_block_types"):
            config["up_block_types"] = tuple(name.replace("Down", "Up") for name in reversed(down))
        self.setting, self.models, self.xl = setting, models, setting.base == "sdxl"
        self.unet = build(UNet2DConditionModel, config, setting)
        self.vae = build(AutoencoderKL, TINY_VAE, setting)
        self.catalog, self.loaded = Catalog([models]), Loaded(3)
        size, side = setting.size, setting.size // 8
        self.pictures = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
        shapes: dict[str, tuple[int, ...]] = {
            "prompt_embeds": (1, 77, config["cross_attention_dim"]),
            "latents": (1, 4, side, side),
        }
        if self.xl:
            shapes["pooled_prompt_embeds"] = (1, POOLED)
        shapes |= {f"negative_{name}": shape for name, shape in shapes.items() if "prompt" in name}
        where = (self.unet.device, self.unet.dtype)
        self.inputs = {name: torch.randn(shape).to(*where) for name, shape in shapes.items()}

    def start(self, case: Case) -> Callable[[], Tensor]:
        """A pass under this control: every call of it makes the latents, the first one may read files too."""
        return self._diffusers(case) if case.nets else self._ours(case)

    def _ours(self, case: Case) -> Callable[[], Tensor]:
        size, pipe = self.setting.size, self._pipeline("Pipeline")
        job = Job(size, size, unet_diffusers.base_of(self.unet))
        units = [
            parse({**unit, "image": picture})
            for unit, picture in zip(case.units, self.pictures, strict=False)
        ]
        plans = [plan.resolve(i, unit, job, self.catalog) for i, unit in enumerate(units)]

        def evaluations() -> int:
            return cast(int, pipe.num_timesteps)

        def run() -> Tensor:
            session = Session(self.loaded, preprocess.Cache(), plans)
            session.prepare()
            session.begin(size, size, unet_diffusers.LiveUNet(self.unet), hires=False)
            with unet_diffusers.follow(
                self.unet, session.step, session.joints, pictures=1, evaluations=evaluations
            ):
                latents = self._denoise(pipe)
            session.close()
            return latents

        return run if plans else lambda: self._denoise(pipe)

    def _diffusers(self, case: Case) -> Callable[[], Tensor]:
        from diffusers import ControlNetModel

        dtype, device = self.unet.dtype, self.setting.device
        folders = [(self.models / name, name) for name in (f"net{i}" for i in range(case.nets))]
        nets = [ControlNetModel.from_pretrained(at, variant=name, torch_dtype=dtype) for at, name in folders]
        pictures = [Image.fromarray(picture) for picture in self.pictures[: case.nets]]
        control = [net.to(device).requires_grad_(False) for net in nets]
        pipe = self._pipeline("ControlNetPipeline", controlnet=control if case.nets > 1 else control[0])
        image = pictures if case.nets > 1 else pictures[0]
        return lambda: self._denoise(pipe, image=image, guess_mode=case.guess_mode)

    def _pipeline(self, kind: str, **extra: Any) -> Any:
        import diffusers

        scheduler = diffusers.DDIMScheduler(clip_sample=False, steps_offset=1)
        parts = dict(vae=self.vae, unet=self.unet, scheduler=scheduler, text_encoder=None, tokenizer=None)
        if self.xl:
            parts |= dict(text_encoder_2=None, tokenizer_2=None, add_watermarker=False)
        else:
            parts |= dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        pipe = getattr(diffusers, f"StableDiffusion{'XL' if self.xl else ''}{kind}")(**parts, **extra)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def _denoise(self, pipe: Any, **extra: Any) -> Tensor:
        size = dict(height=self.setting.size, width=self.setting.size)
        asked = dict(num_inference_steps=self.setting.steps, guidance_scale=7.0, output_type="latent")
        return cast(Tensor, pipe(**self.inputs, **size, **asked, **extra).images)


@contextmanager
def counting(measured: Measured) -> Iterator[None]:
    """Count the control networks' calls and all operations: slow, so never while the time is taken."""
    from diffusers import ControlNetModel
    from torch.nn.modules.module import register_module_forward_hook
    from torch.utils import flop_counter

    def count(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(module, ControlNetModel):
            measured.calls += 1
            measured.rows += len(output[1])

    def attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        formula: Callable[..., Any] = flop_counter.sdpa_flop_count
        return formula(query, key, value)

    on_cpu = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    missing = {on_cpu: attention} if on_cpu else {}  # torch has no formula for it
    handle = register_module_forward_hook(count)
    try:
        with flop_counter.FlopCounterMode(display=False, custom_mapping=missing) as counter:
            yield
        measured.flops = counter.get_total_flops()
    finally:
        handle.remove()


def measure_time(setting: Setting, models: Path) -> Results:
    """Every case once in each round, beginning with another one each time."""
    rig = Rig(setting, models)
    runs = {case.name: rig.start(case) for case in CASES}
    results = {name: Measured() for name in runs}
    plain = runs[PLAIN]()
    for name, run in runs.items():
        with counting(results[name]):
            latents = run()
        results[name].shift = float((latents - plain).float().abs().mean() / plain.float().std())
    names = list(runs)
    for nth in range(setting.rounds):
        sys.stderr.write(f"Round {nth + 1} of {setting.rounds}\n")
        first = nth % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            _finish(setting)
            wall, cpu = perf_counter(), process_time()
            runs[name]()
            _finish(setting)
            results[name].wall.append(perf_counter() - wall)
            results[name].cpu.append(process_time() - cpu)
    return results


def _finish(setting: Setting) -> None:
    if setting.cuda:
        torch.cuda.synchronize()


def measure_memory(setting: Setting, models: Path) -> Peaks:
    """Peaks in bytes over loading and one step, each case in a process of its own."""
    forks = "forkserver" in get_all_start_methods() and not setting.cuda  # a fork may not use CUDA
    context = get_context("forkserver" if forks else "spawn")
    if forks:  # imports once, and every case starts from there
        context.set_forkserver_preload(["diffusers.pipelines.controlnet.pipeline_controlnet"])
    peaks = {}
    for case in CASES:
        if case.memory:
            with ProcessPoolExecutor(1, mp_context=context) as process:
                peaks[case.name] = process.submit(_peaks, replace(setting, steps=1), models, case).result()
    return peaks


def _peaks(setting: Setting, models: Path, case: Case) -> dict[str, int]:
    Rig(setting, models).start(case)()
    peaks = {}
    status = Path("/proc/self/status")
    if status.exists():  # Linux
        peaks["RSS"] = 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0])
    if setting.cuda:
        peaks["CUDA"] = torch.cuda.max_memory_allocated()
    return peaks


def added(results: Results, name: str, clock: str) -> list[float]:
    """What control added to a pass in each round, in plain passes of the same round."""
    pairs = zip(getattr(results[name], clock), getattr(results[PLAIN], clock), strict=True)
    return [took / plain - 1 for took, plain in pairs]


def at_best(results: Results, name: str, clock: str) -> float:
    """The same of the fastest passes: what else the machine does only ever adds time."""
    return float(min(getattr(results[name], clock)) / min(getattr(results[PLAIN], clock)) - 1)


def quartiles(numbers: Sequence[float]) -> list[float]:
    """Where the middle half begins, the median, and where the middle half ends."""
    return quantiles(numbers, n=4, method="inclusive")


def _compared(results: Results, name: str, other: str | None, clock: str) -> str:
    """What a case adds, in what another one adds or, without one, in plain passes."""
    mine, best = added(results, name, clock), at_best(results, name, clock)
    if other:
        mine = [a / b for a, b in zip(mine, added(results, other, clock), strict=True)]
        best /= at_best(results, other, clock)
    low, middle, high = quartiles(mine)
    return f"{middle:.3f} ({low:.3f} to {high:.3f}); {best:.3f}"


def time_table(results: Results, setting: Setting, clock: str) -> str:
    """Markdown. Ratios are "median of the rounds (their middle half); of the fastest passes"."""
    head = (f"{clock} time", "s per UNet call", "network rows per call", "FLOPs added", "added")
    lines: list[tuple[str, ...]] = [(*head, f"of {ONE}'s", "of diffusers'"), ("---",) * 7]
    for case in CASES:
        name, one = case.name, results[case.name]
        seconds, rows = median(getattr(one, clock)) / setting.steps, one.rows / setting.steps
        more = "" if name == PLAIN else _compared(results, name, None, clock)
        of_one = "" if name in (PLAIN, ONE) else _compared(results, name, ONE, clock)
        of_theirs = _compared(results, name, case.peer, clock) if case.peer else ""
        flops = one.flops / results[PLAIN].flops - 1
        lines.append((name, f"{seconds:.4g}", f"{rows:g}", f"{flops:.3f}", more, of_one, of_theirs))
    return _markdown(lines)


def memory_table(peaks: Peaks, file: int) -> str:
    """Markdown; `file` is the size of one control file in bytes."""
    lines: list[tuple[str, ...]] = [("peak memory", "of", "MiB", "added, in control files"), ("---",) * 4]
    for name, peak in peaks.items():
        for kind, size in peak.items():
            lines.append((name, kind, f"{size / 2**20:.0f}", f"{(size - peaks[PLAIN][kind]) / file:.2f}"))
    return _markdown(lines)


def _markdown(lines: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(results: Results, clock: str, path: Path) -> None:
    """Bars: the added time of each case; a line for the middle half of the rounds, a tick at the FLOPs."""
    cases = [case for case in CASES if case.name != PLAIN]
    spreads = [quartiles(added(results, case.name, clock)) for case in cases]
    left, scale = 210, 560 / max(0.01, *(high for _, _, high in spreads))
    picture = Image.new("RGB", (860, 50 + 26 * len(cases)), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((10, 10), f"Added {clock} time in plain UNet calls; the tick is at the added FLOPs", "black")
    for n, (case, (low, middle, high)) in enumerate(zip(cases, spreads, strict=True)):
        top = 40 + 26 * n
        floor = left + scale * (results[case.name].flops / results[PLAIN].flops - 1)
        end = left + scale * max(0, middle)
        draw.text((10, top + 3), case.name, "black")
        draw.rectangle((left, top, end, top + 16), "#999999" if case.nets else "#4477aa")
        draw.line((left + scale * low, top + 8, left + scale * high, top + 8), "black", 2)
        draw.line((floor, top - 3, floor, top + 19), "#cc3311", 2)
        draw.text((10 + max(left + scale * high, floor), top + 3), f"{middle:.3f}", "black")
    picture.save(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; write results.json, results.md and added.png."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["adherence"]:
        from controlstack.train.demo import adherence

        adherence.main(given[1:])
        return
    setting, out = _read(given)
    with TemporaryDirectory() as folder:
        models = Path(folder)
        write_models(setting, models)
        file = next(models.rglob("*.safetensors")).stat().st_size
        peaks = measure_memory(setting, models)
        results = measure_time(setting, models)
    clocks = ("wall",) if setting.cuda else ("cpu", "wall")
    about = {**asdict(setting), **_machine(setting)}
    tables = [time_table(results, setting, clock) for clock in clocks] + [memory_table(peaks, file)]
    text = "\n\n".join([", ".join(f"{name} {value}" for name, value in about.items()), *tables]) + "\n"
    cases = {name: asdict(one) for name, one in results.items()}
    written = json.dumps({"about": about, "cases": cases, "memory": peaks, "file": file}, indent=1)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(written + "\n", encoding="utf-8")
    (out / "results.md").write_text(text, encoding="utf-8")
    plot(results, clocks[0], out / "added.png")
    sys.stdout.write(text)


def _machine(setting: Setting) -> dict[str, object]:
    import diffusers

    return {
        "processor": torch.cuda.get_device_name() if setting.cuda else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "diffusers": str(diffusers.__version__),
    }


def _read(arguments: Sequence[str] | None) -> tuple[Setting, Path]:
    parser = argparse.ArgumentParser(prog="python -m controlstack.bench", description=__doc__)
    parser.add_argument("--base", choices=BASES, default="sd15")
    parser.add_argument("--size", type=int, help="px; 512 on CUDA, else 256")
    parser.add_argument("--steps", type=int, help="of one pass; 20 on CUDA, else 2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="fp16 on CUDA, else fp32")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    said = parser.parse_args(arguments)
    if said.rounds < 2:
        parser.error("--rounds must be at least 2")
    size, steps, dtype = (512, 20, "fp16") if said.device.startswith("cuda") else (256, 2, "fp32")
    chosen = (said.size or size, said.steps or steps, said.rounds, said.device, said.dtype or dtype)
    return Setting(said.base, *chosen), said.out


if __name__ == "__main__":
    main()
