"""Where everything stands on the panel: the components of one unit, and the tabs around the units."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from controlstack.faces.ui import compat
from controlstack.faces.ui.fields import BY_NAME, HIDDEN, HIRES, NAMES
from controlstack.faces.ui.stock import Stock

SPARE = 3
"""Units beyond those of the settings that can be added without a restart."""


@dataclass
class UnitView:
    """The components of one unit.

    fields: whose values make the unit, by name
    parts: buttons and texts, by the suffix of their element ids
    """

    tab: str
    place: int
    prefix: str
    fields: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, Any] = field(default_factory=dict)

    def put(self, name: str, kind: str = "", **said: Any) -> Any:
        """Place the component of a field here. kind: another than the table's"""
        row = replace(BY_NAME[name], kind=kind or BY_NAME[name].kind)
        made = self.fields[name] = compat.component(row, self.prefix + row.suffix, **said)
        return made

    def html(self, suffix: str, value: str = "", *classes: str, visible: bool = True) -> Any:
        """Place a piece of the page here."""
        made = self.parts[suffix] = compat.html(value, self.prefix + suffix, *classes, visible=visible)
        return made

    def tool(self, suffix: str, label: str, title: str, *classes: str, **said: Any) -> Any:
        """Place a small button here."""
        made = self.parts[suffix] = compat.tool(label, self.prefix + suffix, title, *classes, **said)
        return made

    def icon(self, suffix: str, icon: str, title: str, *classes: str, **said: Any) -> Any:
        """Place a small button with a drawing on it here; the style sheet hides its words, and draws."""
        return self.tool(suffix, title, title, "cnet-icon", f"cnet-icon-{icon}", *classes, **said)

    def part(self, suffix: str, kind: type[Any], *args: Any, **said: Any) -> Any:
        """Place any other component here."""
        made = self.parts[suffix] = kind(*args, elem_id=self.prefix + suffix, **said)
        made.do_not_save_to_config = True
        return made

    def values(self) -> list[Any]:
        """The components of all fields, in the order of the table."""
        return [self.fields[name] for name in NAMES]


@dataclass
class PanelView:
    """All of a tab's units, and what surrounds them.

    total: units that are on the page, shown or not
    shown: units whose tabs are shown at the start
    """

    tab: str
    prefix: str
    shown: int
    total: int
    units: list[UnitView] = field(default_factory=list)
    tabs: list[Any] = field(default_factory=list)
    parts: dict[str, Any] = field(default_factory=dict)

    def part(self, suffix: str, kind: type[Any], *args: Any, **said: Any) -> Any:
        """Place a component that belongs to all units."""
        made = self.parts[suffix] = kind(*args, elem_id=self.prefix + suffix, **said)
        made.do_not_save_to_config = True
        return made


def unit(view: UnitView, stock: Stock) -> None:
    """Lay out one unit."""
    in_img2img = view.tab == "img2img"
    with gr.Group(elem_id=f"{view.prefix}_sources", visible=True), gr.Row():
        with gr.Column():
            with gr.Tabs(elem_id=f"{view.prefix}_input_tabs"):
                _sources(view, in_img2img=in_img2img)
            view.put("input_mode")
        with gr.Column(visible=True, elem_classes=["cnet-preview-column"]):
            _preview(view)
    view.put("region")
    _new_canvas(view)
    view.html(
        "_invert_warning",
        "Set the preprocessor to [invert] If your image has white background and black lines.",
        "controlnet_invert_warning",
    )
    with gr.Row(elem_classes=["controlnet_image_controls"]):
        view.icon("_controlnet_open_new_canvas_button", "canvas", "Open new canvas")
        view.icon("_draw", "brush", "Draw a mask or a region", visible=compat.DRAWS_APART)
        view.icon("_webcam_enable", "camera", "Enable webcam", visible=not compat.CAN_HIDE_TABS)
        view.icon("_webcam_mirror", "mirror", "Mirror the image")
        view.icon("_send_dimen_button", "size", "Send dimensions to stable diffusion")
    with gr.Row(elem_classes=["controlnet_main_options"]):
        view.put("enabled")
        view.put("low_vram")
        view.put("pixel_perfect")
        view.put("allow_preview", visible=not in_img2img)
        view.put("region_on")
        view.put("preview_as_input")
    with gr.Row(elem_classes=["controlnet_img2img_options"]):
        view.put("independent", value=not in_img2img, visible=in_img2img)
        view.put("crop", visible=in_img2img)
    view.html("_mistake", "", "cnet-mistake")
    _choices(view, stock)
    _strengths(view)
    view.put("control_mode")
    view.put("resize_mode", visible=not in_img2img)
    view.put("hr_option")
    view.put("pulid_mode")
    view.put("union_control_type")
    view.put("combination")
    view.put("loopback")
    with gr.Row():
        view.put("weight_type")
        view.put("composition_weight")
        view.put("advanced_weighting")
    view.html("_weight_plot", "", "cnet-weight-plot")
    with gr.Accordion(
        "Over the steps, and beyond the picture", open=False, elem_id=f"{view.prefix}_schedule"
    ):
        _schedule(view)
    with gr.Accordion("What will be sent", open=False, elem_id=f"{view.prefix}_sent"):
        _sent(view)


def _sources(view: UnitView, *, in_img2img: bool) -> None:
    with compat.tab("Single Image", f"{view.prefix}_single_tab", "cnet-simple-tab") as single:
        view.put("picture", visible=not in_img2img)
        view.put("mask", visible=compat.DRAWS_APART)
    with compat.tab("Batch", f"{view.prefix}_batch_tab", "cnet-batch-tab") as batch:
        view.put("batch_dir")
        view.put("batch_files")
        view.put("batch_mask_dir")
        view.put("output_dir")
    with compat.tab("Multi-Inputs", f"{view.prefix}_merge_tab", "cnet-merge-tab") as merge:
        view.put("gallery")
        with gr.Row():
            view.parts["_merge_upload"] = compat.upload_button(
                "Upload Images", f"{view.prefix}_merge_upload", ["image"], many=True
            )
            view.part("_merge_clear", gr.Button, "Clear Images")
    view.sources = {"simple": single, "batch": batch, "merge": merge}


def _preview(view: UnitView) -> None:
    view.put("preview")
    view.html("_preview_status", "", "cnet-preview-status")
    with gr.Row(elem_classes=["cnet-generated-image-control-group"]):
        view.tool("_pose_edit", "Edit pose", "Edit the pose", "cnet-edit-pose")
        view.parts["_pose_upload"] = compat.upload_button(
            "Upload JSON", f"{view.prefix}_pose_upload", [".json"], elem_classes=["cnet-upload-pose"]
        )
        view.html("_pose_download", "", "cnet-download-pose")
        view.tool("_preview_close", "Close", "Close the preview", "cnet-close-preview", visible=False)
    view.part("_pose_json", gr.Textbox, value="", show_label=False, elem_classes=[HIDDEN, "cnet-pose-json"])
    view.part("_pose_render", gr.Button, "Draw the pose", elem_classes=[HIDDEN, "cnet-render-pose"])


def _new_canvas(view: UnitView) -> None:
    with gr.Accordion("Open New Canvas", visible=False, elem_id=f"{view.prefix}_new_canvas") as accordion:
        for suffix, label in (
            ("_controlnet_canvas_width", "New Canvas Width"),
            ("_controlnet_canvas_height", "New Canvas Height"),
        ):
            view.part(suffix, gr.Slider, label=label, minimum=256, maximum=1024, step=64, value=512)
        with gr.Row():
            view.part("_controlnet_canvas_create_button", gr.Button, "Create New Canvas")
            view.part("_controlnet_canvas_cancel_button", gr.Button, "Cancel")
    view.parts["_new_canvas"] = accordion


def _choices(view: UnitView, stock: Stock) -> None:
    kind = stock.control_type("All")
    listed = stock.host.option("controlnet_control_type_dropdown", default=False)
    view.put("control_type", "dropdown" if listed else "", choices=list(stock.control_types()))
    with gr.Row(elem_classes=["controlnet_preprocessor_model"]):
        view.put("module", choices=[preprocessor.label for preprocessor in kind.preprocessors])
        view.icon("_controlnet_trigger_preprocessor", "run", "Run preprocessor", "cnet-run-preprocessor")
        view.put("model", choices=list(kind.models))
        view.icon("_controlnet_refresh_models", "refresh", "Refresh models")


def _strengths(view: UnitView) -> None:
    with gr.Row(elem_classes=["controlnet_weight_steps"]):
        view.put("weight")
        view.put("guidance_start")
        view.put("guidance_end")
    view.put("processor_res")
    view.put("threshold_a")
    view.put("threshold_b")


def _schedule(view: UnitView) -> None:
    view.html("_curve_editor", f'<div class="cnet-curve-editor" data-unit="{view.prefix}"></div>')
    view.put("weight_curve")
    view.put("negative_weight")
    view.put("batch_weights")
    view.put("hires_on")
    for name in HIRES:
        view.put(name)


def _sent(view: UnitView) -> None:
    with gr.Row():
        view.part("_sent_show", gr.Button, "Show what this unit sends")
        view.part("_sent_pictures", gr.Checkbox, value=False, label="With its pictures (long)")
    for suffix, label in (("_sent_json", "JSON"), ("_sent_curl", "curl"), ("_sent_python", "Python")):
        view.part(suffix, gr.Textbox, label=label, value="", lines=4, max_lines=20, interactive=False)


def panel(tab: str, name: str, count: int, most: int, stock: Stock) -> PanelView:
    """Lay out all units of a tab of the host's.

    name: of the extension on this host; element ids begin with it
    count: units to show; most: how many a job may have
    """
    total = min(count + SPARE, most) if count > 1 else count
    view = PanelView(tab, f"{tab}_{name.lower()}", count, total)
    classes = ["controlnet", "cnet-accordion"]
    with gr.Group(elem_id=view.prefix):
        _told(view)
        with gr.Accordion(name, open=False, elem_id=f"{view.prefix}_accordion", elem_classes=classes):
            _panel(view, stock)
    return view


def _told(view: PanelView) -> None:
    """What the page's script reads of units that gradio has not made yet: it makes a tab, or what lies in an
    accordion, when it is first opened."""
    view.part("_units", gr.Textbox, value="", show_label=False, elem_classes=[HIDDEN])


def _panel(view: PanelView, stock: Stock) -> None:
    _commands(view)
    view.parts["offered"] = gr.State(stock.sign())
    if view.total > 1:
        with gr.Tabs(elem_id=f"{view.prefix}_tabs"):
            for place in range(view.total):
                _unit_tab(view, place, stock)
        view.part("_add_unit", gr.Button, "Add a unit", size="sm")
    else:
        view.units.append(UnitView(view.tab, 0, f"{view.prefix}_ControlNet"))
        unit(view.units[0], stock)
    if compat.DRAWS_APART:
        _drawing(view)
    _overview(view)
    _presets(view)


def _drawing(view: PanelView) -> None:
    with gr.Group(visible=False, elem_id=f"{view.prefix}_draw", elem_classes=["cnet-draw"]) as group:
        view.parts["_draw_editor"] = compat.shared_canvas("Brush over it", f"{view.prefix}_draw_editor")
        with gr.Row():
            view.part("_draw_mask", gr.Button, "Use as the unit's mask", size="sm")
            view.part("_draw_region", gr.Button, "Use as the unit's region", size="sm")
            view.part("_draw_cancel", gr.Button, "Cancel", size="sm")
    view.parts["_draw"] = group
    view.parts["drawn_unit"] = gr.State(0)


def _commands(view: PanelView) -> None:
    """What the page's script uses, and what says how it went."""
    view.parts["shown"] = gr.State(view.shown)
    style, _ = compat.tabs_shown(f"{view.prefix}_tabs", view.shown, view.total)
    view.parts["_tabs_style"] = compat.html(style, f"{view.prefix}_tabs_style", HIDDEN)
    view.part("_command", gr.Textbox, value="", show_label=False, elem_classes=[HIDDEN])
    view.part("_command_run", gr.Button, "Run", elem_classes=[HIDDEN])
    view.part("_follow", gr.Button, "Follow the checkpoint", elem_classes=[HIDDEN])
    view.parts["_mistake"] = compat.html("", f"{view.prefix}_mistake", "cnet-mistake")


def _overview(view: PanelView) -> None:
    with gr.Accordion("Stack overview", open=False, elem_id=f"{view.prefix}_overview_accordion"):
        view.parts["_overview"] = compat.html("", f"{view.prefix}_overview", "cnet-overview")
        with gr.Row():
            view.part("_overview_refresh", gr.Button, "Refresh the overview", size="sm")
            view.part("_turns", gr.Button, "Each unit for each picture of a batch", size="sm")


def _presets(view: PanelView) -> None:
    with gr.Accordion("Presets", open=False, elem_id=f"{view.prefix}_presets"):
        with gr.Row():
            view.parts["_preset_dropdown"] = compat.dropdown("Preset", f"{view.prefix}_preset_dropdown")
            view.part("_preset_load", gr.Button, "Load", size="sm")
            view.part("_preset_delete", gr.Button, "Delete", size="sm")
        with gr.Row():
            view.part("_preset_name", gr.Textbox, value="", label="Name")
            view.part("_preset_save", gr.Button, "Save the units", size="sm")
        view.part("_preset_share", gr.Textbox, value="", label="Preset as JSON, to copy or paste", lines=4)
        view.part("_preset_import", gr.Button, "Load what stands above", size="sm")


def _unit_tab(view: PanelView, place: int, stock: Stock) -> None:
    prefix = f"{view.prefix}_ControlNet-{place}"
    with compat.tab(
        f"ControlNet Unit {place}", f"{prefix}_tab", "cnet-unit-tab", shown=place < view.shown
    ) as made:
        view.units.append(UnitView(view.tab, place, prefix))
        unit(view.units[-1], stock)
    view.tabs.append(made)
