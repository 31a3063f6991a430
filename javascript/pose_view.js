/** A pose as SVG, drawn as pose.py draws it. Each point and limb says in its data what it stands for. */
(function (controlstack) {
    "use strict";

    const RADIUS = { body: 4, left: 4, right: 4, face: 3 }; // px of the pose's canvas
    const LARGEST = 1 / 16; // of a part's extent: the points of a small hand would cover each other
    const COLOUR = { left: "rgb(0 0 255)", right: "rgb(0 0 255)", face: "white" };

    /** The nodes of a whole pose, points and limbs `grow` times as thick: seen from afar they would be too thin. */
    function draw(pose, grow = 1) {
        const people = pose.people.map((person, nth) =>
            controlstack.dom.svg(
                "g",
                { class: "cnet-pose-person", "data-person": nth },
                ...limbs(person.body, nth, grow),
                ...dots(person.body, nth, "body", grow),
                ...["left", "right"].flatMap((side) => [
                    ...bones(person[side], nth, grow),
                    ...dots(person[side], nth, side, grow),
                ]),
                ...dots(person.face, nth, "face", grow),
            ),
        );
        return [...people, ...pose.animals.flatMap((animal) => skeleton(animal, grow))];
    }

    function limbs(body, person, grow) {
        const { LIMBS, limbColour } = controlstack.figure;
        return LIMBS.flatMap(([from, to], nth) => {
            const [start, end] = [body[from], body[to]];
            if (!(seen(start) && seen(end))) {
                return [];
            }
            const [x, y] = [(start[0] + end[0]) / 2, (start[1] + end[1]) / 2];
            const [dx, dy] = [end[0] - start[0], end[1] - start[1]];
            const turn = (Math.atan2(dy, dx) * 180) / Math.PI;
            return controlstack.dom.svg("ellipse", {
                class: "cnet-pose-limb",
                rx: Math.hypot(dx, dy) / 2,
                ry: RADIUS.body * grow,
                fill: limbColour(nth),
                transform: `translate(${x} ${y}) rotate(${turn})`,
                "data-person": person,
            });
        });
    }

    function bones(hand, person, grow) {
        const { BONES, boneColour } = controlstack.figure;
        return BONES.flatMap(([from, to], nth) => {
            const [start, end] = [hand[from], hand[to]];
            const data = { "data-person": person };
            return seen(start) && seen(end) ? line(start, end, boneColour(nth), 2 * grow, data) : [];
        });
    }

    function dots(points, person, part, grow) {
        const { text, joint } = controlstack.texts;
        const radius = Math.min(RADIUS[part] * grow, extent(points) * LARGEST);
        return points.flatMap((at, point) => {
            if (!seen(at)) {
                return [];
            }
            const dot = controlstack.dom.svg("circle", {
                class: `cnet-pose-point cnet-pose-${part}`,
                cx: at[0],
                cy: at[1],
                r: radius,
                fill: COLOUR[part] ?? controlstack.figure.jointColour(point),
                tabindex: part === "body" ? 0 : -1,
                "data-person": person,
                "data-part": part,
                "data-point": point,
            });
            const name = { left: "poseLeftHand", right: "poseRightHand", face: "poseFace" }[part];
            dot.append(controlstack.dom.svg("title", {}, name ? `${text(name)} ${point}` : joint(point)));
            return dot;
        });
    }

    function skeleton(points, grow) {
        const { ANIMAL_LIMBS, css } = controlstack.figure;
        return ANIMAL_LIMBS.flatMap(([[from, to], colour]) =>
            seen(points[from]) && seen(points[to]) ? line(points[from], points[to], css(colour), 5 * grow) : [],
        );
    }

    function line(start, end, stroke, width, data = {}) {
        const ends = { x1: start[0], y1: start[1], x2: end[0], y2: end[1] };
        const look = { stroke, "stroke-width": width, "stroke-linecap": "round" };
        return controlstack.dom.svg("line", { ...ends, ...look, ...data });
    }

    /** The larger side of what the points lie in, px; endless for a single one. */
    function extent(points) {
        const sides = [0, 1].map((axis) => points.filter(seen).map((point) => point[axis]));
        return Math.max(...sides.map((values) => Math.max(...values) - Math.min(...values))) || Infinity;
    }

    function seen(point) {
        return Boolean(point) && point[2] > 0;
    }

    controlstack.poseView = { draw };
})((globalThis.controlstack ??= {}));
