/** The rows of the overview: their buttons, keys and dragging become commands to the server. */
(function (controlstack) {
    "use strict";

    const ROW = ".cnet-row[data-unit]";

    let dragged = null;
    let focusNext = null; // `{tab, index}`: the server draws rows anew, and the one in hand should stay in hand

    /** The tab and the unit of the row that a node is in. */
    function row(node) {
        const place = node.closest?.(ROW);
        const tab = place?.closest('[id$="_controlnet_overview"]')?.id.split("_", 1)[0];
        return tab ? { place, tab, index: Number(place.dataset.unit) } : null;
    }

    function rows(tab) {
        return [...(controlstack.page.find(`${tab}_controlnet_overview`)?.querySelectorAll(ROW) ?? [])];
    }

    function command({ tab, index }, what, more = {}) {
        controlstack.page.command(tab, { do: what, unit: index, ...more });
    }

    function move(from, to) {
        if (from.index !== to) {
            focusNext = { tab: from.tab, index: to };
            command(from, "move", { to });
        }
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
        const order = rows(at.tab);
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
        for (const place of dragged ? rows(dragged.tab) : []) {
            place.classList.toggle("cnet-row-target", place === at?.place && at.index !== dragged.index);
        }
        if (at?.tab === dragged?.tab && at) {
            event.preventDefault();
        }
    }

    function drop(event) {
        const at = dragged && row(event.target);
        if (at && at.tab === dragged.tab) {
            event.preventDefault();
            event.stopPropagation(); // hosts take what is dropped for a picture
            move(dragged, at.index);
        }
    }

    function dragEnd() {
        for (const place of dragged ? rows(dragged.tab) : []) {
            place.classList.remove("cnet-row-target");
        }
        dragged = null;
    }

    function look() {
        for (const tab of controlstack.page.tabs()) {
            for (const place of rows(tab).filter((one) => !one.draggable)) {
                place.draggable = true;
                place.tabIndex = 0;
                place.title ||= controlstack.texts.text("rowHelp");
            }
        }
        if (focusNext && document.activeElement === document.body) {
            rows(focusNext.tab)
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
