/** Sentences about one unit, brought from where the host shows a failed job to the unit, until the next Generate. */
(function (controlstack) {
    "use strict";

    const NAMED = /ControlNet unit (\d+): ([\s\S]+)/; // as errors.py writes it
    const GRACE = 1500; // ms in which what the host shows may still be of the job before

    const mistakes = new Map(); // prefix -> sentence
    const stale = new WeakSet(); // what the host already showed when Generate was pressed
    let started = { tab: "txt2img", at: 0 };

    /** Where hosts say what went wrong: `[tab, node]`. Notices in the corner are of the job started last. */
    function shown() {
        const { root, find, tabs } = controlstack.page;
        const logs = tabs().flatMap((tab) =>
            [...(find(`html_log_${tab}`)?.querySelectorAll(".error") ?? [])].map((node) => [tab, node]),
        );
        const notices = root().querySelectorAll(".toast-body.error .toast-text");
        return [...logs, ...[...notices].map((node) => [started.tab, node])];
    }

    function begin(tab) {
        started = { tab, at: Date.now() };
        for (const [, node] of shown()) {
            stale.add(node);
        }
        for (const prefix of [...mistakes.keys()].filter((key) => key.startsWith(`${tab}_`))) {
            mistakes.delete(prefix);
        }
        look();
    }

    /** Whether a host that hides its Interrupt button between jobs hides it now. */
    function over(tab) {
        const button = controlstack.page.find(`${tab}_interrupt`);
        return Boolean(button) && button.style.display === "none" && Date.now() - started.at > GRACE;
    }

    function read() {
        for (const [tab, node] of shown()) {
            const found = NAMED.exec(node.textContent);
            const fresh = !stale.has(node) || (tab === started.tab && over(tab));
            const named = (unit) => unit.tab === tab && unit.index === Number(found[1]);
            const unit = found && fresh ? controlstack.page.units().find(named) : null;
            if (unit) {
                mistakes.set(unit.prefix, found[2].trim());
            }
        }
    }

    function look() {
        read();
        const units = controlstack.page.units();
        for (const unit of units) {
            const place = controlstack.page.find(`${unit.prefix}_mistake`);
            const sentence = mistakes.get(unit.prefix);
            if (place) {
                keep(place, ".cnet-mistake-sent", sentence, () => sentenceNode(sentence));
            }
            for (const button of controlstack.units.buttons(unit)) {
                button.classList.toggle("cnet-unit-mistaken", Boolean(sentence));
            }
        }
        for (const tab of controlstack.page.tabs()) {
            const wrong = units.filter((unit) => unit.tab === tab && mistakes.has(unit.prefix));
            const label = controlstack.units.accordionLabel(tab);
            if (label) {
                const said = wrong.map(line).join("\n");
                keep(label.parentElement, ":scope > .cnet-mistakes", said, () => list(wrong), label);
            }
        }
    }

    /** Have one node of ours in a place, with this text; none for no text. Nothing is touched that is right already. */
    function keep(place, selector, said, make, after = null) {
        const old = place.querySelector(selector);
        if ((old?.dataset.said ?? "") === (said ?? "")) {
            return;
        }
        old?.remove();
        if (said) {
            const made = make();
            made.dataset.said = said;
            if (after) {
                after.after(made);
            } else {
                place.append(made);
            }
        }
    }

    function sentenceNode(sentence) {
        return controlstack.dom.element("div", { class: "cnet-mistake-sent", role: "alert" }, sentence);
    }

    function list(wrong) {
        const { element, button } = controlstack.dom;
        const title = controlstack.texts.text("mistakeShow");
        const open = (unit) => (event) => {
            event.stopPropagation();
            controlstack.units.open(unit);
        };
        const lines = wrong.map((unit) => button(line(unit), title, open(unit)));
        return element("div", { class: "cnet-mistakes" }, ...lines);
    }

    function line(unit) {
        return controlstack.texts.text("mistake", { n: unit.index, sentence: mistakes.get(unit.prefix) });
    }

    (controlstack.looks ??= []).push(look);
    globalThis.document?.addEventListener(
        "click",
        (event) => {
            const tab = /^(txt2img|img2img)_generate$/.exec(event.target.closest?.("button")?.id)?.[1];
            if (tab) {
                begin(tab);
            }
        },
        true,
    );
})((globalThis.controlstack ??= {}));
