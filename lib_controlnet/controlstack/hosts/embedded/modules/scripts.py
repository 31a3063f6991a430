"""A1111's script contract: the base class, and the runner that calls each script's hooks."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules import errors, paths, script_loading

AlwaysVisible = object()
"""What `show` returns for a script that runs in every job."""


@dataclass
class PostprocessImageArgs:
    image: Any
    index: int = 0


@dataclass
class PostProcessMaskOverlayArgs:
    index: int
    mask_for_overlay: Any
    overlay_image: Any


@dataclass
class PostprocessBatchListArgs:
    images: list[Any]


@dataclass
class PostSampleArgs:
    samples: Any


@dataclass
class MaskBlendArgs:
    current_latent: Any
    nmask: Any
    init_latent: Any
    mask: Any
    blended_latent: Any
    denoiser: Any = None
    sigma: Any = None
    is_final_blend: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_final_blend = self.denoiser is None


class Script:
    """A script of the WebUI. A hook is called only where the script's class overrides it.

    In every hook `p` is the job and `args` are the values of what `ui` returned.
    """

    filename: str | None = None
    args_from: int | None = None
    args_to: int | None = None
    alwayson = False
    is_txt2img = False
    is_img2img = False
    tabname: str | None = None
    infotext_fields: list[Any] | None = None
    paste_field_names: list[str] | None = None

    def title(self) -> str:
        """The name in the API and on the page."""
        raise NotImplementedError

    def ui(self, is_img2img: bool) -> Sequence[Any] | None:
        """The components, each with a `value`, whose values become `args`."""

    def show(self, is_img2img: bool) -> Any:
        """Whether the script is offered on this tab; `AlwaysVisible` runs it in every job."""
        return True

    def elem_id(self, item_id: str) -> str:
        return f"script_{self.tabname}_{self.title().lower().replace(' ', '_')}_{item_id}"

    def run(self, p: Any, *args: Any) -> Any:
        """What a script that is selected for a job does instead of it: returns a `Processed`, or None."""

    def setup(self, p: Any, *args: Any) -> None:
        """When the job has got its scripts and their values."""

    def before_process(self, p: Any, *args: Any) -> None:
        """Before the job's settings take effect."""

    def process(self, p: Any, *args: Any) -> None:
        """Before anything is computed; all prompts and seeds are known, the sizes of a hires pass are not."""

    def before_process_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
        """Before a batch's prompts are read; `p.rng` may be replaced."""

    def after_extra_networks_activate(self, p: Any, *args: Any, **kwargs: Any) -> None:
        """After extra networks (LoRA) are in place; here there are none."""

    def process_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
        """Before a batch's prompts are encoded."""

    def before_hr(self, p: Any, *args: Any) -> None:
        """Before the high-resolution pass."""

    def process_before_every_sampling(self, p: Any, *args: Any, **kwargs: Any) -> None:
        """Before a sampling pass; kwargs are x, noise, c, uc."""

    def on_mask_blend(self, p: Any, mba: MaskBlendArgs, *args: Any) -> None:
        """When inpainting puts the kept latents back."""

    def post_sample(self, p: Any, ps: PostSampleArgs, *args: Any) -> None:
        """After sampling, with the latents, or the pictures of a hires pass."""

    def postprocess_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
        """With a batch's pictures "B 3 H W", 0..1, in `images`."""

    def postprocess_batch_list(self, p: Any, pp: PostprocessBatchListArgs, *args: Any, **kwargs: Any) -> None:
        """With a list of a batch's pictures, which may be changed in number."""

    def postprocess_image(self, p: Any, pp: PostprocessImageArgs, *args: Any) -> None:
        """With each picture before it is pasted over what inpainting keeps."""

    def postprocess_maskoverlay(self, p: Any, ppmo: PostProcessMaskOverlayArgs, *args: Any) -> None:
        """With what inpainting keeps."""

    def postprocess_image_after_composite(self, p: Any, pp: PostprocessImageArgs, *args: Any) -> None:
        """With each picture as it will be shown."""

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        """At the end of a job that did not fail."""


@dataclass(frozen=True)
class ScriptClassData:
    script_class: type[Script]
    path: Path
    basedir: Path


scripts_data: list[ScriptClassData] = []
roots: list[Path] = []
"""The folders of the extensions."""
_basedir = paths.script_path


def basedir() -> str:
    """The root of the extension whose script is being loaded; only then."""
    return _basedir


def load_scripts(roots: Sequence[Path]) -> None:
    """Execute `scripts/*.py` of every extension and remember the Script classes in them.

    While a file runs, its extension's root comes first on `sys.path`, which is then put back as it was.
    A file that fails is logged and left out.
    """
    global _basedir
    for root in roots:
        for path in sorted((root / "scripts").glob("*.py")):
            saved, _basedir = sys.path, str(root)
            sys.path = [str(root), *saved]
            try:
                module = script_loading.load_module(path)
            except Exception:  # noqa: BLE001  one script must not keep the host from starting
                errors.report(f"Error loading script: {path.name}", exc_info=True)
                continue
            finally:
                sys.path, _basedir = saved, paths.script_path
            scripts_data.extend(
                ScriptClassData(value, path, root)
                for value in vars(module).values()
                if inspect.isclass(value) and issubclass(value, Script) and value is not Script
            )


def unload_scripts() -> None:
    """Forget every script."""
    global scripts_txt2img, scripts_img2img
    scripts_data.clear()
    scripts_txt2img, scripts_img2img = ScriptRunner("txt2img"), ScriptRunner("img2img")


class ScriptRunner:
    """The scripts of one tab. A hook is called on each script that overrides it; what it raises is logged."""

    def __init__(self, tab: str = "") -> None:
        self.job = f"scripts_{tab}"
        self.scripts: list[Script] = []
        self.alwayson_scripts: list[Script] = []
        self.selectable_scripts: list[Script] = []
        self.inputs: list[Any] = [None]
        self.title_map: dict[str, Script] = {}

    def initialize_scripts(self, is_img2img: bool) -> None:
        """Make one instance of every script that shows itself on this tab, and its arguments' places."""
        for data in scripts_data:
            script = data.script_class()
            script.filename = str(data.path)
            script.is_txt2img, script.is_img2img = not is_img2img, is_img2img
            script.tabname = "img2img" if is_img2img else "txt2img"
            visibility = script.show(is_img2img)
            if visibility:
                script.alwayson = visibility is AlwaysVisible
                (self.alwayson_scripts if script.alwayson else self.selectable_scripts).append(script)
        self.scripts = [*self.alwayson_scripts, *self.selectable_scripts]
        for script in self.scripts:
            self._place(script)
            self.title_map.setdefault(script.title().lower(), script)

    def _place(self, script: Script) -> None:
        """Find the script's place among the arguments, on a page that nobody sees."""
        import gradio as gr

        with gr.Blocks(analytics_enabled=False):
            components = self.components(script)
        script.args_from = len(self.inputs)
        self.inputs += components
        script.args_to = len(self.inputs)

    def components(self, script: Script) -> list[Any]:
        """What the script shows, made anew on the page that is being built."""
        try:
            return list(script.ui(script.is_img2img) or ())
        except Exception:  # noqa: BLE001  as A1111: the script lives on without arguments
            errors.report(f"Error calling ui: {script.filename}", exc_info=True)
            return []

    def script(self, title: str) -> Script | None:
        """The script of this title, in any case."""
        return self.title_map.get(title.lower())

    def run(self, p: Any, *args: Any) -> Any:
        """Let the selected script run the job; what it has made, or None if no script is selected.

        The first argument is the script's number among the selectable ones, from 1.
        """
        selected = args[0] if args else 0
        if not selected:
            return None
        script = self.selectable_scripts[selected - 1]
        return script.run(p, *args[script.args_from : script.args_to])

    def default_args(self) -> list[Any]:
        """The values that the page starts with; the first is the number of the selected script, none."""
        return [0, *(component.value for component in self.inputs[1:])]

    def setup_scrips(self, p: Any) -> None:  # A1111's spelling
        self._call("setup", p)

    def before_process(self, p: Any) -> None:
        self._call("before_process", p)

    def process(self, p: Any) -> None:
        self._call("process", p)

    def before_process_batch(self, p: Any, **kwargs: Any) -> None:
        self._call("before_process_batch", p, **kwargs)

    def after_extra_networks_activate(self, p: Any, **kwargs: Any) -> None:
        self._call("after_extra_networks_activate", p, **kwargs)

    def process_batch(self, p: Any, **kwargs: Any) -> None:
        self._call("process_batch", p, **kwargs)

    def before_hr(self, p: Any) -> None:
        self._call("before_hr", p)

    def process_before_every_sampling(self, p: Any, **kwargs: Any) -> None:
        self._call("process_before_every_sampling", p, **kwargs)

    def on_mask_blend(self, p: Any, mba: MaskBlendArgs) -> None:
        self._call("on_mask_blend", p, mba)

    def post_sample(self, p: Any, ps: PostSampleArgs) -> None:
        self._call("post_sample", p, ps)

    def postprocess_batch(self, p: Any, images: Any, **kwargs: Any) -> None:
        self._call("postprocess_batch", p, images=images, **kwargs)

    def postprocess_batch_list(self, p: Any, pp: PostprocessBatchListArgs, **kwargs: Any) -> None:
        self._call("postprocess_batch_list", p, pp, **kwargs)

    def postprocess_image(self, p: Any, pp: PostprocessImageArgs) -> None:
        self._call("postprocess_image", p, pp)

    def postprocess_maskoverlay(self, p: Any, ppmo: PostProcessMaskOverlayArgs) -> None:
        self._call("postprocess_maskoverlay", p, ppmo)

    def postprocess_image_after_composite(self, p: Any, pp: PostprocessImageArgs) -> None:
        self._call("postprocess_image_after_composite", p, pp)

    def postprocess(self, p: Any, processed: Any) -> None:
        self._call("postprocess", p, processed)

    def _call(self, hook: str, p: Any, *event: Any, **kwargs: Any) -> None:
        for script in self._overriding(hook):
            args = p.script_args[script.args_from : script.args_to]
            try:
                getattr(script, hook)(p, *event, *args, **kwargs)
            except Exception:  # noqa: BLE001  the contract: a failing hook does not stop the job
                errors.report(f"Error running {hook}: {script.filename}", exc_info=True)

    def _overriding(self, hook: str) -> Iterator[Script]:
        base = getattr(Script, hook)
        return (script for script in self.alwayson_scripts if getattr(type(script), hook) is not base)


scripts_txt2img = ScriptRunner("txt2img")
scripts_img2img = ScriptRunner("img2img")
scripts_current: ScriptRunner | None = None
