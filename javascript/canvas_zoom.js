/** Zoom and pan in the units' pictures, on hosts that lend theirs (A1111's canvas-zoom-and-pan). */
(function (controlstack) {
    "use strict";

    const joined = new Set();

    function look() {
        const lent = typeof window.applyZoomAndPanIntegration === "function";
        for (const panel of lent ? controlstack.page.panels() : []) {
            const pictures = controlstack.page.units(panel).map((unit) => `#${unit.prefix}_input_image`);
            if (pictures.length && !joined.has(panel.prefix)) {
                joined.add(panel.prefix);
                window.applyZoomAndPanIntegration(`#${panel.prefix}`, pictures); // at the first click in the panel
            }
        }
    }

    (controlstack.looks ??= []).push(look);
})((globalThis.controlstack ??= {}));
