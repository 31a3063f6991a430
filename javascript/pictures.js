/**
 * The picture of a unit, as far as the page has it. Newer gradios paint it into a canvas that cannot be read back, so
 * files are remembered when somebody puts them in.
 */
(function (controlstack) {
    "use strict";

    const SUFFIX = "_input_image";
    const given = new Map(); // prefix of the unit -> address of the file

    /** Somebody put a picture into a unit: all of `controlstack.arrivals` hear its prefix. */
    function arrived(event) {
        const place = event.target.closest?.(`[id$="${SUFFIX}"]`);
        const files = event.target.files ?? event.dataTransfer?.files ?? event.clipboardData?.files ?? [];
        const file = [...files].find((one) => one.type.startsWith("image/"));
        if (!place || !file) {
            return;
        }
        const prefix = place.id.slice(0, -SUFFIX.length);
        URL.revokeObjectURL(given.get(prefix));
        given.set(prefix, URL.createObjectURL(file));
        for (const hear of controlstack.arrivals ?? []) {
            hear(prefix);
        }
    }

    /** The address of a unit's picture, or null. */
    function address(prefix) {
        const place = controlstack.page.find(prefix + SUFFIX);
        const image = place?.querySelector("img[src]");
        const painted = place?.querySelector("canvas");
        const preview = controlstack.page.find(`${prefix}_generated_image`)?.querySelector("img[src]");
        return image?.src || (painted && given.get(prefix)) || preview?.src || null;
    }

    /** The size of a unit's picture in px, or null. */
    async function size(prefix) {
        const source = address(prefix);
        if (!source) {
            return null;
        }
        const image = new Image();
        image.src = source;
        await image.decode();
        return { width: image.naturalWidth, height: image.naturalHeight };
    }

    for (const name of ["change", "drop", "paste"]) {
        globalThis.document?.addEventListener(name, arrived, true);
    }

    controlstack.pictures = { address, size };
})((globalThis.controlstack ??= {}));
