/** Buttons that copy what will be sent. */
(function (controlstack) {
    "use strict";

    const FIELDS = ["json", "curl", "python"].map((kind) => `[id$="_sent_${kind}"]`).join(", ");
    const THANKS = 1500; // ms

    async function copy(line, button) {
        const done = await put(line.value);
        if (!done) {
            line.select();
        }
        button.textContent = controlstack.texts.text(done ? "copied" : "copyByHand");
        setTimeout(() => (button.textContent = controlstack.texts.text("copy")), THANKS);
    }

    /** Into the clipboard, if that may be. Pages that are neither https nor local have only the old way. */
    async function put(words) {
        try {
            await navigator.clipboard.writeText(words);
            return true;
        } catch {
            return putByHand(words);
        }
    }

    function putByHand(words) {
        const line = controlstack.dom.element("textarea", { class: "cnet-aside" });
        line.value = words;
        document.body.append(line);
        line.select();
        const done = document.execCommand("copy");
        line.remove();
        return done;
    }

    function look() {
        for (const place of controlstack.page.root().querySelectorAll(FIELDS)) {
            const line = place.querySelector("textarea");
            if (line && !place.querySelector(".cnet-copy")) {
                const button = controlstack.dom.button(
                    controlstack.texts.text("copy"),
                    controlstack.texts.text("copy"),
                    () => copy(place.querySelector("textarea"), button),
                    { class: "cnet-button cnet-copy" },
                );
                place.append(button);
            }
        }
    }

    (controlstack.looks ??= []).push(look);
})((globalThis.controlstack ??= {}));
