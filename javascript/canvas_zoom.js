/** Zoom and pan in the units' pictures, on hosts that lend theirs (A1111's canvas-zoom-and-pan). */
(function (controlstack) {
    "use strict";

    const joined = new Set();

    function look() {
        for (const tab of typeof window.applyZoomAndPanIntegration === "function" ? controlstack.page.tabs() : []) {
            const pictures = controlstack.page
                .units()
                .filter((unit) => unit.tab === tab)
                .map((unit) => `#${unit.prefix}_input_image`);
            if (pictures.length && !joined.has(tab)) {
                joined.add(tab);
                window.applyZoomAndPanIntegration(`#${tab}_controlnet`, pictures); // at the first click in the panel
            }
        }
    }

    (controlstack.looks ??= []).push(look);
})((globalThis.controlstack ??= {}));
