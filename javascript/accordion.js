/** Whether somebody left the panel open is remembered by their browser. */
(function (controlstack) {
    "use strict";

    const restored = new Set();

    function look() {
        for (const tab of controlstack.page.tabs()) {
            const label = controlstack.units.accordionLabel(tab);
            if (!label) {
                continue;
            }
            const [key, open] = [`controlstack.${tab}.open`, label.classList.contains("open")];
            if (!restored.has(tab)) {
                restored.add(tab);
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
