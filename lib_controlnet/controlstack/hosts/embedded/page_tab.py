"""One tab of the page: its fields, its scripts, and the painting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from html import escape
from typing import Any, get_type_hints

import gradio as gr
from modules import processing, scripts, shared
from PIL import Image, ImageChops

from controlstack.errors import ControlError
from controlstack.hosts.embedded import api_state, jobs, page_fields
from controlstack.log import log

_LOOK_EVERY = 0.4
"""Seconds between two looks at the running job."""


def build(tab: str, runner: scripts.ScriptRunner) -> None:
    """Lay out the tab and wire it."""
    fields: dict[str, Any] = {}
    ask = page_fields.asker(tab, fields)
    with gr.Row():
        with gr.Column(scale=4):
            page_fields.prompts(ask)
        with gr.Column(scale=1, min_width=160):
            generate = gr.Button("Generate", variant="primary", elem_id=f"{tab}_generate")
            with gr.Row():
                interrupt = gr.Button("Interrupt", min_width=60, elem_id=f"{tab}_interrupt")
                skip = gr.Button("Skip", min_width=60, elem_id=f"{tab}_skip")
    with gr.Row():
        with gr.Column():
            if tab == "img2img":
                page_fields.picture(ask)
            page_fields.sampling(ask)
            if shared.sd_model.wants_depth:
                page_fields.depth(ask)
            if tab == "txt2img":
                page_fields.hires(ask)
            arguments = _scripts(tab, runner)
        with gr.Column():
            gallery = gr.Gallery(
                label="Pictures", format="png", columns=2, object_fit="contain", elem_id=f"{tab}_gallery"
            )
            status = gr.HTML(elem_id=f"{tab}_status")
            infotext = gr.Textbox(label="Infotext", lines=4, buttons=["copy"], elem_id=f"{tab}_infotext")
    told = gr.State([])

    def paint(*values: Any) -> Iterator[Any]:
        yield from _paint(tab, runner, dict(zip(fields, values, strict=False)), values[len(fields) :])

    generate.click(
        paint,
        [*fields.values(), *arguments],
        [gallery, status, infotext, told],
        api_name=tab,
        show_progress="hidden",
    )
    interrupt.click(shared.state.interrupt, queue=False, api_name=False)
    skip.click(shared.state.skip, queue=False, api_name=False)
    gallery.select(_infotext_of, told, infotext, queue=False, api_name=False)


def _scripts(tab: str, runner: scripts.ScriptRunner) -> list[Any]:
    """What the scripts show, in the order of `runner.inputs`; a selectable one only while it is selected."""
    shown = []
    for script in runner.alwayson_scripts:
        with gr.Accordion(script.title(), open=False, elem_id=f"{tab}_script_{script.title()}") as panel:
            shown += runner.components(script)
        panel.visible = not all(isinstance(child, gr.State) for child in panel.children)
    titles = [script.title() for script in runner.selectable_scripts]
    selected = gr.Dropdown(
        ["None", *titles],
        value="None",
        label="Script",
        type="index",
        visible=bool(titles),
        elem_id=f"{tab}_script_list",
    )
    groups = []
    for script in runner.selectable_scripts:
        with gr.Group(visible=False) as group:
            shown += runner.components(script)
        groups.append(group)
    if groups:
        selected.change(
            lambda chosen: [gr.update(visible=i + 1 == chosen) for i in range(len(groups))],
            selected,
            groups,
            queue=False,
            api_name=False,
        )
    return [selected, *shown]


def _paint(
    tab: str, runner: scripts.ScriptRunner, values: dict[str, Any], args: Sequence[Any]
) -> Iterator[tuple[Any, ...]]:
    """Run the job beside the page and tell it how far that is; then the pictures and their infotexts."""
    try:
        p = _job(tab, values)
        with ThreadPoolExecutor(1) as beside:
            running: Future[Any] = beside.submit(jobs.run, p, runner, tuple(args))
            while not running.done():
                wait([running], timeout=_LOOK_EVERY)
                yield gr.skip(), _status(), gr.skip(), gr.skip()
        processed = running.result()
    except Exception as error:
        mistake = isinstance(error, (ControlError, ValueError))
        log.error("The page's job failed: %s", error, exc_info=None if mistake else error)
        raise gr.Error(escape(str(error)), duration=None, print_exception=False) from error
    pictures = [getattr(picture, "already_saved_as", picture) for picture in processed.images]
    comments = "".join(f"<p>{escape(comment)}</p>" for comment in processed.comments)
    yield pictures, comments, processed.infotexts[0], processed.infotexts


def _job(tab: str, values: dict[str, Any]) -> Any:
    kind = (
        processing.StableDiffusionProcessingTxt2Img
        if tab == "txt2img"
        else processing.StableDiffusionProcessingImg2Img
    )
    types = get_type_hints(kind)
    drawn = values.pop("init", None)
    given = {name: int(value) if types[name] is int else value for name, value in values.items()}
    if tab == "img2img":
        background, painted = _drawing(drawn)
        given |= {"init_images": [background], "mask": given["mask"] or painted}
        given["inpaint_full_res"] = bool(given["inpaint_full_res"])
    return kind(**given)


def _drawing(drawn: dict[str, Any] | None) -> tuple[Image.Image, Image.Image | None]:
    """The picture of the editor, and what was brushed over as a mask, None for nothing."""
    if not drawn or drawn["background"] is None:
        raise ValueError("There is no picture to start from; put one into the editor")
    mask = None
    for layer in drawn["layers"]:
        alpha = layer.getchannel("A").point(lambda value: 255 * (value > 0))
        mask = alpha if mask is None else ImageChops.lighter(mask, alpha)
    return drawn["background"], mask if mask is not None and mask.getbbox() else None


def _status() -> str:
    state = shared.state
    where = f"Step {state.sampling_step} of {state.sampling_steps}" if state.sampling_steps else "Preparing"
    batch = f", batch {state.job_no + 1} of {state.job_count}" if state.job_count > 1 else ""
    return f'<progress value="{api_state.share_done():.3f}" style="width:100%"></progress>{where}{batch}'


def _infotext_of(told: list[str], event: gr.SelectData) -> str:
    return told[event.index] if event.index < len(told) else ""
