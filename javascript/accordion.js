/** Whether somebody left the panel open is remembered by their browser. */
(function (controlstack) {
    "use strict";

    const restored = new Set();

    function look() {
        for (const panel of controlstack.page.panels()) {
            const label = controlstack.units.accordionLabel(panel);
            if (!label) {
                continue;
            }
            const [key, open] = [`controlstack.${panel.tab}.open`, label.classList.contains("open")];
            if (!restored.has(key)) {
                restored.add(key);
                if (localStorage.getItem(key) === "true" && !open) {
                    label.click();
                    continue; // it opens in a moment
                }
            }
            localStorage.setItem(key, String(open));
        }
    }

    (controlstack.looks ??= []).push(look);
})((globalThis.controlstack ??= {}));
