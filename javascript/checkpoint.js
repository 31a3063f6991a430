/**
 * The lists of models follow the loaded checkpoint. Hosts do not tell their page of a new one, so the server is asked
 * at whatever may mean one: another name in the host's dropdown, other settings, the end of a job, and somebody who
 * comes back to the window or opens the panel. It answers with nothing where nothing has changed.
 */
(function (controlstack) {
    "use strict";

    const CHOSEN = "setting_sd_model_checkpoint";

    const asked = new Map(); // prefix of the panel -> what the page hinted at when the server was asked
    let returns = 0;

    /** What the page shows of its checkpoint, as one text. */
    function hint() {
        const { field, find } = controlstack.page;
        const jobs = ["txt2img", "img2img"].map((tab) => find(`html_info_${tab}`)?.textContent);
        const { sd_model_checkpoint: name, sd_checkpoint_hash: hash } = globalThis.opts ?? {};
        return JSON.stringify([field(CHOSEN)?.value, name, hash, jobs, returns]);
    }

    function look() {
        const now = hint();
        for (const { prefix } of controlstack.page.panels().filter(isOpen)) {
            if (asked.get(prefix) !== now && controlstack.page.find(`${prefix}_follow`)) {
                asked.set(prefix, now);
                controlstack.page.press(`${prefix}_follow`);
            }
        }
    }

    function isOpen(panel) {
        return controlstack.units.accordionLabel(panel)?.classList.contains("open");
    }

    (controlstack.looks ??= []).push(look);
    globalThis.window?.addEventListener("focus", () => (returns += 1));
})((globalThis.controlstack ??= {}));
