/** Sentences about one unit, brought from where the host shows a failed job to the unit, until the next Generate. */
(function (controlstack) {
    "use strict";

    const NAMED = /ControlNet unit (\d+): ([\s\S]+)/; // as errors.py writes it
    const NOTICE = ".toast-body.error :is(.toast-text, .toast-message-text)";
    const GRACE = 1500; // ms in which what the host shows may still be of the job before

    const mistakes = new Map(); // "txt2img 0" -> {tab, index, sentence}; the unit may not be on the page yet
    const stale = new WeakSet(); // what the host already showed when Generate was pressed
    let started = { tab: "txt2img", at: 0 };

    /** Where hosts say what went wrong: `[tab, node]`. Notices in the corner are of the job started last. */
    function shown() {
        const { root, find, panels } = controlstack.page;
        const logs = panels().flatMap(({ tab }) =>
            [...(find(`html_log_${tab}`)?.querySelectorAll(".error") ?? [])].map((node) => [tab, node]),
        );
        const notices = root().querySelectorAll(NOTICE);
        return [...logs, ...[...notices].map((node) => [started.tab, node])];
    }

    function begin(tab) {
        started = { tab, at: Date.now() };
        for (const [, node] of shown()) {
            stale.add(node);
        }
        for (const [key, mistake] of mistakes) {
            if (mistake.tab === tab) {
                mistakes.delete(key);
            }
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
            if (found && fresh) {
                mistakes.set(`${tab} ${found[1]}`, { tab, index: Number(found[1]), sentence: found[2].trim() });
            }
        }
    }

    function look() {
        read();
        for (const panel of controlstack.page.panels()) {
            for (const unit of controlstack.page.units(panel)) {
                mark(unit, mistakes.get(`${panel.tab} ${unit.index}`)?.sentence);
            }
            const wrong = [...mistakes.values()].filter((mistake) => mistake.tab === panel.tab);
            const label = controlstack.units.accordionLabel(panel);
            if (label) {
                const said = wrong.map(line).join("\n");
                keep(label.parentElement, ":scope > .cnet-mistakes", said, () => list(panel, wrong), label);
            }
        }
    }

    function mark(unit, sentence) {
        const place = controlstack.page.find(`${unit.prefix}_mistake`);
        if (place) {
            const ours = [...place.querySelectorAll(".cnet-mistake-sent")].map((node) => node.textContent).join("");
            const told = place.textContent.replace(ours, "").includes(sentence); // by the server, in the same words
            keep(place, ".cnet-mistake-sent", told ? "" : sentence, () => sentenceNode(sentence));
        }
        for (const button of controlstack.units.buttons(unit)) {
            button.classList.toggle("cnet-unit-mistaken", Boolean(sentence));
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

    function list(panel, wrong) {
        const { element, button } = controlstack.dom;
        const title = controlstack.texts.text("mistakeShow");
        const open = ({ index }) => controlstack.units.open({ panel, index });
        const lines = wrong.map((mistake) => button(line(mistake), title, () => open(mistake)));
        return element("div", { class: "cnet-mistakes" }, ...lines);
    }

    function line({ index, sentence }) {
        return controlstack.texts.text("mistake", { n: index, sentence });
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
