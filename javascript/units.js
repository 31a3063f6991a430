/** What a unit shows outside itself: its tab's colour and control type, and how many units are on, in the label. */
(function (controlstack) {
    "use strict";

    const ENABLE = "_controlnet_enable_checkbox";
    const TYPE = "_controlnet_type_filter_radio";
    const UPLOAD = "_pose_upload";

    const COPY = "[aria-hidden=true], .visually-hidden"; // with which newer gradios measure widths

    const ALL = "All";

    function enabled(prefix) {
        return Boolean(controlstack.page.field(prefix + ENABLE)?.checked);
    }

    /** The control type that is chosen. */
    function type(prefix) {
        const place = controlstack.page.find(prefix + TYPE);
        const checked = place?.querySelector("input[type=radio]:checked");
        const chosen = checked ?? place?.querySelector("input:not([type=radio])");
        return chosen?.value ?? ALL;
    }

    /** What is known of a panel's units, by number: `{on, type}`. Of those not made yet the server's word counts. */
    function known(panel) {
        const told = JSON.parse(controlstack.page.field(`${panel.prefix}_units`)?.value || "[]");
        for (const { prefix, index } of controlstack.page.units(panel)) {
            told[index] = { on: enabled(prefix), type: type(prefix) };
        }
        return told;
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
            const own = buttons(unit).filter((button) => !button.closest(COPY));
            const first = own.find((button) => button.offsetParent) ?? own[0];
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
            const units = known(panel);
            units.forEach((unit, index) => {
                for (const button of buttons({ panel, index })) {
                    button.classList.toggle("cnet-unit-active", unit.on);
                    set(suffix(button), "data-cnet-type", unit.type === ALL ? "" : unit.type);
                }
            });
            badge(panel, units.filter((unit) => unit.on).length);
        }
    }

    /** The place of the control type in a tab's button. The button's own `::after` is a gradio's line below it. */
    function suffix(button) {
        const { element } = controlstack.dom;
        return (
            button.querySelector(".cnet-unit-type") ??
            button.appendChild(element("span", { class: "cnet-unit-type" }))
        );
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

    controlstack.units = { enabled, known, buttons, open, accordionLabel };
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
