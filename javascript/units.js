/** What a unit shows outside itself: its tab's colour and control type, and how many units are on, in the label. */
(function (controlstack) {
    "use strict";

    const ENABLE = "_controlnet_enable_checkbox";
    const TYPE = "_controlnet_type_filter_radio";
    const UPLOAD = "_pose_upload";

    function enabled(prefix) {
        return Boolean(controlstack.page.field(prefix + ENABLE)?.checked);
    }

    /** The control type that is chosen, "" for All. */
    function type(prefix) {
        const place = controlstack.page.find(prefix + TYPE);
        const checked = place?.querySelector("input[type=radio]:checked");
        const chosen = checked ?? place?.querySelector("input:not([type=radio])");
        return !chosen || chosen.value === "All" ? "" : chosen.value;
    }

    /** The buttons of the tab that lead to a unit; a gradio may have a second one in a menu. */
    function buttons({ panel, index }) {
        const bar = controlstack.page.find(`${panel.prefix}_tabs`)?.firstElementChild;
        const all = [...(bar?.querySelectorAll("button") ?? [])];
        return all.filter((button) => Number(/(\d+)\D*$/.exec(button.textContent)?.[1] ?? -1) === index);
    }

    /** Bring a unit before the eyes; newer gradios make its tab when the accordion opens. */
    function open(unit) {
        const label = accordionLabel(unit.panel);
        if (label && !label.classList.contains("open")) {
            label.click();
        }
        setTimeout(() => {
            const [first] = buttons(unit).filter((button) => button.offsetParent);
            first?.click();
            first?.scrollIntoView({ block: "nearest" });
        }, 100);
    }

    function accordionLabel(panel) {
        return controlstack.page.find(`${panel.prefix}_accordion`)?.querySelector(".label-wrap") ?? null;
    }

    function enable(prefix) {
        if (!enabled(prefix)) {
            controlstack.page.field(prefix + ENABLE)?.click();
        }
    }

    function look() {
        for (const panel of controlstack.page.panels()) {
            const units = controlstack.page.units(panel);
            for (const unit of units) {
                for (const button of buttons(unit)) {
                    button.classList.toggle("cnet-unit-active", enabled(unit.prefix));
                    set(button, "data-cnet-type", type(unit.prefix));
                }
            }
            badge(panel, units.filter((unit) => enabled(unit.prefix)).length);
        }
    }

    /** An attribute, absent for "": written only when it changes, or the page would never come to rest. */
    function set(node, name, value) {
        if ((node.getAttribute(name) ?? "") !== value) {
            if (value) {
                node.setAttribute(name, value);
            } else {
                node.removeAttribute(name);
            }
        }
    }

    function badge(panel, count) {
        const { text } = controlstack.texts;
        const label = accordionLabel(panel);
        const said = count ? `[${count === 1 ? text("oneUnit") : text("units", { n: count })}]` : "";
        const old = label?.querySelector(".cnet-badge");
        if (!label || (old?.textContent ?? "") === said) {
            return;
        }
        old?.remove();
        if (said) {
            label.firstElementChild.after(controlstack.dom.element("span", { class: "cnet-badge" }, said));
        }
    }

    controlstack.units = { enabled, type, buttons, open, accordionLabel };
    (controlstack.looks ??= []).push(look);
    (controlstack.arrivals ??= []).push(enable);
    globalThis.document?.addEventListener(
        "change",
        (event) => {
            const place = event.target.files?.length && event.target.closest(`[id$="${UPLOAD}"]`);
            if (place) {
                enable(place.id.slice(0, -UPLOAD.length));
            }
        },
        true,
    );
})((globalThis.controlstack ??= {}));
