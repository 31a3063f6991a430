"""One tab of the page: its fields, its scripts, and the painting."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from html import escape
from typing import Any, NamedTuple, get_type_hints

import gradio as gr
from modules import processing, scripts, shared

from controlstack.errors import ControlError
from controlstack.hosts.embedded import (
    api_state,
    jobs,
    page_fields,
    page_gradio,
    page_paste,
    page_png_info,
    preview,
)
from controlstack.log import log

_LOOK_EVERY = 0.4
"""Seconds between two looks at the running job."""
_SHOWN = 384
"""Longer side of the picture on the way (px); it has a pixel for each latent cell."""


class Tab(NamedTuple):
    """What others on the page need of a tab.

    made: a state with the pictures of the last job and their infotexts
    chosen: a state with the place of the one that is looked at
    """

    fields: dict[str, Any]
    targets: list[page_paste.Target]
    made: Any
    chosen: Any
    to_img2img: Any


class _Shown(NamedTuple):
    """Where a job shows itself."""

    gallery: Any
    maps: Any
    live: Any
    infotext: Any
    log: Any
    made: Any
    chosen: Any


def build(tab: str, runner: scripts.ScriptRunner) -> Tab:
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
            shown, paste, to_img2img = _results(tab)

    def paint(*values: Any) -> Iterator[Any]:
        given = dict(zip(fields, values, strict=False))
        yield from map(tuple, _paint(tab, runner, given, values[len(fields) :]))

    generate.click(paint, [*fields.values(), *arguments], list(shown), api_name=tab, show_progress="hidden")
    interrupt.click(shared.state.interrupt, [], [], queue=False, api_name=False)
    skip.click(shared.state.skip, [], [], queue=False, api_name=False)
    shown.gallery.select(_look, shown.made, [shown.infotext, shown.chosen], queue=False, api_name=False)
    targets = page_paste.targets(fields, runner.scripts)
    page_png_info.wire(paste, shown.infotext, tab, targets)
    return Tab(fields, targets, shown.made, shown.chosen, to_img2img)


def _results(tab: str) -> tuple[_Shown, Any, Any]:
    """The right side of the tab: where a job shows itself, and the buttons that go on from there."""
    looks = {"format": "png", "object_fit": "contain"}
    gallery = page_gradio.made(gr.Gallery, label="Pictures", columns=2, elem_id=f"{tab}_gallery", **looks)
    live = gr.HTML(elem_id=f"{tab}_live", elem_classes=["host-live"])
    said = gr.HTML(elem_id=f"html_log_{tab}", elem_classes=["host-log"])
    infotext = page_gradio.made(
        gr.Textbox,
        label="Infotext (any can be put here)",
        lines=4,
        max_lines=12,
        interactive=True,
        elem_id=f"{tab}_infotext",
        **page_gradio.COPY,
    )
    with gr.Row():
        paste = gr.Button("Use this infotext's values", size="sm", elem_id=f"{tab}_paste")
        to_img2img = gr.Button("Send picture to img2img", size="sm", elem_id=f"{tab}_send_to_img2img")
    maps = page_gradio.made(
        gr.Gallery,
        label="What controlled them",
        columns=4,
        fit_columns=False,
        visible=False,
        elem_id=f"{tab}_maps",
        **looks,
    )
    return _Shown(gallery, maps, live, infotext, said, gr.State([]), gr.State(0)), paste, to_img2img


def wire_sending(source: Tab, target: Tab) -> None:
    """Have a tab's button hand its picture, with prompt and values, to img2img."""

    def send(made: list[tuple[Any, str]], chosen: int) -> list[Any]:
        if not made:
            raise page_gradio.failure("There is no picture to send yet.")
        picture, text = made[min(chosen, len(made) - 1)]
        return [page_gradio.canvas_value(picture), *page_paste.updates(text, target.targets)]

    outputs = [target.fields["init"], *(aim.component for aim in target.targets)]
    source.to_img2img.click(
        send, [source.made, source.chosen], outputs, api_name=False, show_progress="hidden", queue=False
    )
    source.to_img2img.click(None, [], [], **page_gradio.javascript("() => showTab('img2img')"))


def _scripts(tab: str, runner: scripts.ScriptRunner) -> list[Any]:
    """What the scripts show, in the order of `runner.inputs`; a selectable one only while it is selected."""
    shown = []
    for script in runner.alwayson_scripts:
        with gr.Group() as group:  # as in A1111, each brings its own accordion
            shown += runner.components(script)
        group.visible = not all(isinstance(child, gr.State) for child in group.children)
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
    for place, group in enumerate(groups, start=1):
        selected.change(
            lambda chosen, place=place: page_gradio.update(visible=chosen == place),
            selected,
            group,
            queue=False,
            api_name=False,
        )
    return [selected, *shown]


def _paint(
    tab: str, runner: scripts.ScriptRunner, values: dict[str, Any], args: Sequence[Any]
) -> Iterator[_Shown]:
    """Run the job beside the page and tell it how far that is; then the pictures and their infotexts."""
    same = _Shown(*[page_gradio.update()] * len(_Shown._fields))
    try:
        yield same._replace(live=_live(), log="")
        p = _job(tab, values)
        with ThreadPoolExecutor(1) as beside:
            running: Future[Any] = beside.submit(jobs.run, p, runner, tuple(args))
            while not running.done():
                wait([running], timeout=_LOOK_EVERY)
                yield same._replace(live=_live())
        processed = running.result()
    except Exception as error:
        mistake = isinstance(error, (ControlError, ValueError))
        log.error("The page's job failed: %s", error, exc_info=None if mistake else error)
        yield same._replace(live="", log=f'<div class="error">{escape(str(error))}</div>')
        raise page_gradio.failure(str(error)) from error
    yield _result(processed)


def _result(processed: Any) -> _Shown:
    pictures = [getattr(picture, "already_saved_as", picture) for picture in processed.images]
    painted = len(processed.infotexts)
    made = list(zip(pictures, processed.infotexts, strict=False))
    return _Shown(
        gallery=pictures[:painted],
        maps=page_gradio.update(value=pictures[painted:], visible=len(pictures) > painted),
        live="",
        infotext=processed.infotexts[0],
        log="".join(f"<p>{escape(comment)}</p>" for comment in processed.comments),
        made=made,
        chosen=0,
    )


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
        picture, painted = page_gradio.drawing(drawn)
        if picture is None:
            raise ValueError("There is no picture to start from; put one into the editor")
        given |= {"init_images": [picture], "mask": given["mask"] or painted}
        given["inpaint_full_res"] = bool(given["inpaint_full_res"])
    return kind(**given)


def _live() -> str:
    """How far the job is, and the picture on its way."""
    state = shared.state
    where = f"Step {state.sampling_step} of {state.sampling_steps}" if state.sampling_steps else "Preparing"
    batch = f", batch {state.job_no + 1} of {state.job_count}" if state.job_count > 1 else ""
    bar = f'<progress value="{api_state.share_done():.3f}"></progress><div>{where}{batch}</div>'
    return bar + _picture(state.current_latent)


def _picture(latent: Any) -> str:
    if latent is None:
        return ""
    seen = preview.of_latents(latent, is_sdxl=shared.sd_model.is_sdxl)
    scale = _SHOWN / max(seen.size)
    file = io.BytesIO()
    seen.resize((round(seen.width * scale), round(seen.height * scale))).save(file, "JPEG")
    return f'<img alt="On its way" src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _look(made: list[tuple[Any, str]], event: gr.SelectData) -> tuple[str, int]:
    return (made[event.index][1], event.index) if event.index < len(made) else ("", 0)
