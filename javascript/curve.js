/**
 * How a weight runs over a sampling pass, written as `0@0, 1@0.2, 1@0.6, 0@1`.
 *
 * The same language as lib_controlnet/controlstack/curve.py; tests/javascript/curves.json holds both to it.
 * A curve is `{points: [[share, factor], …], smooth}`, the shares rising from 0 to 1.
 */
(function (controlstack) {
    "use strict";

    const SMOOTH = "smooth";
    const POINT = /^(-?\d*\.?\d+)@(\d*\.?\d+)$/;
    const MOST = 10;

    /** The curve of a text, or null if it is none. */
    function parse(text) {
        let body = text.trim();
        const smooth = body.toLowerCase().endsWith(SMOOTH);
        if (smooth) {
            body = body.slice(0, -SMOOTH.length).replace(/[ ,]+$/, "");
        }
        const points = [];
        for (const part of body.split(/\s*,\s*|\s+/)) {
            const found = POINT.exec(part);
            if (!found) {
                return null;
            }
            const [share, factor] = [Number(found[2]), Number(found[1])];
            if (share > 1 || Math.abs(factor) > MOST || share < (points.at(-1)?.[0] ?? 0)) {
                return null;
            }
            points.push([share, factor]);
        }
        return { points, smooth };
    }

    /** The text of a curve; numbers with six digits at most. */
    function write({ points, smooth }) {
        const text = points.map(([share, factor]) => `${number(factor)}@${number(share)}`).join(", ");
        return smooth ? `${text} ${SMOOTH}` : text;
    }

    function number(value) {
        return String(Number(value.toPrecision(6)));
    }

    /** The factor at a share of the pass, 0..1. */
    function at({ points, smooth }, share) {
        const next = points.findIndex((point) => point[0] > share);
        if (next <= 0) {
            return points.at(next)[1]; // before the first point, or (-1) behind the last
        }
        const [before, low] = points[next - 1];
        const [after, high] = points[next];
        const u = (share - before) / (after - before);
        return low + (smooth ? u * u * (3 - 2 * u) : u) * (high - low);
    }

    /** The curve with its nth point elsewhere: between its neighbours, and not beyond what a curve may be. */
    function move({ points, smooth }, nth, share, factor) {
        const least = points[nth - 1]?.[0] ?? 0;
        const most = points[nth + 1]?.[0] ?? 1;
        const there = [clamp(share, least, most), clamp(factor, -MOST, MOST)];
        return { points: points.with(nth, there), smooth };
    }

    /** The curve with one more point, and that point's place. */
    function add({ points, smooth }, share, factor) {
        const behind = points.findIndex((point) => point[0] > share);
        const nth = behind < 0 ? points.length : behind;
        return { curve: { points: points.toSpliced(nth, 0, [share, factor]), smooth }, nth };
    }

    /** The curve without its nth point; the last one stays. */
    function remove({ points, smooth }, nth) {
        return { points: points.length > 1 ? points.toSpliced(nth, 1) : points, smooth };
    }

    function clamp(value, least, most) {
        return Math.min(Math.max(value, least), most);
    }

    const PRESETS = {
        constant: "1@0, 1@1",
        "ramp up": "0@0, 1@1",
        "ramp down": "1@0, 0@1",
        bump: "0@0, 1@0.5, 0@1 smooth",
        dip: "1@0, 0@0.5, 1@1 smooth",
        "late start": "0@0, 0@0.3, 1@0.5, 1@1",
        "early end": "1@0, 1@0.5, 0@0.7, 0@1",
    };

    controlstack.curve = { parse, write, at, move, add, remove, PRESETS, MOST };
})((globalThis.controlstack ??= {}));
