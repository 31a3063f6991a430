/** "Send dimensions": the tab's width and height become those of the unit's picture, in steps of 8. */
(function (controlstack) {
    "use strict";

    const SEND = "_controlnet_send_dimen_button";
    const STEP = 8; // px; halves go down, as in the incumbent

    /** The number field of a tab's "width" or "height". */
    function input(tab, side) {
        const place = controlstack.page.find(`${tab}_${side}`);
        return place?.querySelector("input[type=number]") ?? null;
    }

    function rounded(side) {
        return Math.ceil(side / STEP - 0.5) * STEP;
    }

    async function send(prefix) {
        const size = await controlstack.pictures.size(prefix);
        const tab = prefix.split("_", 1)[0];
        for (const side of size ? ["width", "height"] : []) {
            const field = input(tab, side);
            if (field) {
                controlstack.page.write(field, String(rounded(size[side])));
            }
        }
    }

    globalThis.document?.addEventListener("click", (event) => {
        const place = event.target.closest?.(`[id$="${SEND}"]`);
        if (place) {
            send(place.id.slice(0, -SEND.length));
        }
    });

    controlstack.dimensions = { input, rounded };
})((globalThis.controlstack ??= {}));
