/**
 * The page around us: A1111's, Forge's, reForge's or the embedded host's, on any gradio.
 *
 * Gradio makes and remakes nodes as it likes, and values that the server sets change no node at all. So everything
 * here is a look: a function in `controlstack.looks` that brings what we show in line with the page, cheap and safe to
 * repeat. All are called after every change of the page and every half second. Files come in any order.
 */
(function (controlstack) {
    "use strict";

    const HEARTBEAT = 500; // ms
    const SETTLE = 50; // ms after the last change of the page
    const ACCORDION = "_accordion";
    const ENABLE = "_controlnet_enable_checkbox";

    let pending = 0;

    /** Where elements are looked for: the host's root if it has one. */
    function root() {
        return typeof window.gradioApp === "function" ? window.gradioApp() : document;
    }

    function find(id) {
        return document.getElementById(id);
    }

    /** The field that a component's id stands for: its text area, or its input. */
    function field(id) {
        return find(id)?.querySelector("textarea, input") ?? null;
    }

    /** Our panels, `{prefix, tab}`: the host's own ControlNet may have one beside ours. */
    function panels() {
        return [...root().querySelectorAll(`.cnet-accordion[id$="${ACCORDION}"]`)].map((place) => {
            const prefix = place.id.slice(0, -ACCORDION.length);
            return { prefix, tab: tabOf(prefix) };
        });
    }

    /** The units of a panel, `{prefix, panel, index}`, as far as gradio has made them. */
    function units(panel) {
        const start = `${panel.prefix}_ControlNet`;
        const boxes = root().querySelectorAll(`[id^="${start}"][id$="${ENABLE}"]`);
        return [...new Set([...boxes].map((box) => box.id.slice(0, -ENABLE.length)))].map((prefix) => {
            return { prefix, panel, index: Number(/-(\d+)$/.exec(prefix)?.[1] ?? 0) };
        });
    }

    /** The host's tab, "txt2img" or "img2img", that an id begins with. */
    function tabOf(id) {
        return id.split("_", 1)[0];
    }

    /** Write into a field as a person would, so that gradio hears of it. */
    function write(input, value) {
        const kind = input instanceof HTMLTextAreaElement ? HTMLTextAreaElement : HTMLInputElement;
        Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(input, value);
        for (const name of ["input", "change"]) {
            input.dispatchEvent(new Event(name, { bubbles: true }));
        }
    }

    /** Click a button once gradio has taken in what was written just before. */
    function press(id) {
        setTimeout(() => find(id)?.click(), SETTLE);
    }

    /** Send a command to the server, which answers with every unit's values. */
    function command(panel, what) {
        const line = field(`${panel.prefix}_command`);
        if (line) {
            write(line, JSON.stringify({ ...what, at: Date.now() }));
            press(`${panel.prefix}_command_run`);
        }
    }

    function lookAtAll() {
        pending = 0;
        for (const look of controlstack.looks ?? []) {
            try {
                look();
            } catch (error) {
                console.error("ControlStack:", error); // one look must not stop the others
            }
        }
    }

    function soon() {
        pending ||= setTimeout(lookAtAll, SETTLE);
    }

    function start() {
        new MutationObserver(soon).observe(document.body, { childList: true, subtree: true });
        document.addEventListener("input", soon, true);
        document.addEventListener("change", soon, true);
        setInterval(() => document.hidden || soon(), HEARTBEAT);
        soon();
    }

    if (typeof document !== "undefined") {
        if (document.readyState === "loading") {
            document.addEventListener("DOMContentLoaded", start);
        } else {
            start();
        }
    }

    controlstack.page = { root, find, field, panels, units, tabOf, write, press, command };
})((globalThis.controlstack ??= {}));
