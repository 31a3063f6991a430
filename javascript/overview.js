/** The rows of the overview: their buttons, keys and dragging become commands to the server. */
(function (controlstack) {
    "use strict";

    const ROW = ".cnet-row[data-unit]";

    const ANSWER = 4000; // ms; units that look alike change nothing when they change places
    const PAUSE = 400; // ms in which gradio is still busy with an answer, and takes no other click

    let dragged = null;
    let journey = null; // `{panel, index, to}`: a row on its way
    let focusNext = null; // `{panel, index}`: the server draws rows anew, and the one in hand should stay in hand

    /** The row that a node is in: its node, panel and unit. */
    function row(node) {
        const place = node.closest?.(ROW);
        const panel = controlstack.page.panels().find((one) => place && rows(one).includes(place));
        return panel ? { place, panel, index: Number(place.dataset.unit) } : null;
    }

    function rows(panel) {
        return [...(controlstack.page.find(`${panel.prefix}_overview`)?.querySelectorAll(ROW) ?? [])];
    }

    function command({ panel, index }, what) {
        controlstack.page.command(panel, { do: what, unit: index });
    }

    /** Move a row to another's place: by one place at a time, each after the server has answered the one before. */
    function move(from, to) {
        if (from.index !== to) {
            focusNext = { panel: from.panel, index: to };
            step({ panel: from.panel, index: from.index, to });
        }
    }

    function step({ panel, index, to }) {
        const way = Math.sign(to - index);
        command({ panel, index }, way < 0 ? "up" : "down");
        const rest = { panel, index: index + way, to };
        journey = rest.index === to ? null : { ...rest, shown: markup(panel), until: Date.now() + ANSWER };
    }

    function goOn() {
        if (journey && markup(journey.panel) !== journey.shown) {
            journey.shown = markup(journey.panel);
            journey.until = Date.now() + PAUSE;
        }
        if (journey && Date.now() > journey.until) {
            step(journey);
        }
    }

    function markup(panel) {
        return controlstack.page.find(`${panel.prefix}_overview`)?.textContent ?? "";
    }

    function click(event) {
        const at = row(event.target);
        const pressed = event.target.closest?.("[data-do]");
        if (at && pressed) {
            command(at, pressed.dataset.do);
        }
    }

    function key(event) {
        const at = row(event.target);
        if (!at || event.target !== at.place) {
            return;
        }
        const order = rows(at.panel);
        const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
        const next = order[order.indexOf(at.place) + step];
        if (step && event.altKey && next) {
            move(at, Number(next.dataset.unit));
        } else if (step && next) {
            next.focus();
        } else if (event.key === "Enter") {
            controlstack.units.open(at);
        } else if (event.key === "Delete") {
            command(at, "remove");
        } else {
            return;
        }
        event.preventDefault();
        event.stopPropagation();
    }

    function dragStart(event) {
        dragged = row(event.target);
        if (dragged) {
            event.dataTransfer.effectAllowed = "move";
            event.dataTransfer.setData("text/plain", String(dragged.index));
        }
    }

    function dragOver(event) {
        const at = dragged && row(event.target);
        for (const place of dragged ? rows(dragged.panel) : []) {
            place.classList.toggle("cnet-row-target", place === at?.place && at.index !== dragged.index);
        }
        if (at && at.panel.prefix === dragged.panel.prefix) {
            event.preventDefault();
        }
    }

    function drop(event) {
        const at = dragged && row(event.target);
        if (at && at.panel.prefix === dragged.panel.prefix) {
            event.preventDefault();
            event.stopPropagation(); // hosts take what is dropped for a picture
            move(dragged, at.index);
        }
    }

    function dragEnd() {
        for (const place of dragged ? rows(dragged.panel) : []) {
            place.classList.remove("cnet-row-target");
        }
        dragged = null;
    }

    function look() {
        goOn();
        for (const panel of controlstack.page.panels()) {
            for (const place of rows(panel).filter((one) => !one.draggable)) {
                place.draggable = true;
                place.tabIndex = 0;
                place.title ||= controlstack.texts.text("rowHelp");
            }
        }
        if (focusNext && document.activeElement === document.body) {
            rows(focusNext.panel)
                .find((place) => Number(place.dataset.unit) === focusNext.index)
                ?.focus();
            focusNext = null;
        }
    }

    (controlstack.looks ??= []).push(look);
    const heard = { click, keydown: key, dragstart: dragStart, dragover: dragOver, drop, dragend: dragEnd };
    for (const [name, listener] of Object.entries(heard)) {
        globalThis.document?.addEventListener(name, listener, true);
    }
})((globalThis.controlstack ??= {}));
