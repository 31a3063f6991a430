/** Names for the small buttons that show only a drawing. */
(function (controlstack) {
    "use strict";

    const NAMES = {
        _open_new_canvas_button: "toolCanvas",
        _draw: "toolDraw",
        _webcam_enable: "toolWebcam",
        _webcam_mirror: "toolMirror",
        _send_dimen_button: "toolDimensions",
        _trigger_preprocessor: "toolRun",
        _refresh_models: "toolRefresh",
        _pose_edit: "toolPose",
        _preview_close: "toolClose",
    };

    function look() {
        for (const panel of controlstack.page.panels()) {
            for (const [suffix, key] of Object.entries(NAMES)) {
                const button = `[id^="${panel.prefix}_ControlNet"][id$="${suffix}"]:not([title])`;
                for (const place of controlstack.page.root().querySelectorAll(button)) {
                    place.title = controlstack.texts.text(key);
                }
            }
        }
    }

    (controlstack.looks ??= []).push(look);
})((globalThis.controlstack ??= {}));
