/**
 * Poses as values: read and written as OpenPose's JSON, and changed point by point.
 *
 * A pose is `{width, height, people, animals}` (px). A person is `{body, left, right, face}`, each a list of
 * `[x, y, confidence]`; a point of confidence 0 is hidden and keeps its place. Nothing here changes a pose: each
 * function returns a new one. The same format as lib_controlnet/controlstack/pose.py.
 */
(function (controlstack) {
    "use strict";

    const PARTS = {
        body: { key: "pose_keypoints_2d", least: 18, most: 18 },
        left: { key: "hand_left_keypoints_2d", least: 21, most: 21 },
        right: { key: "hand_right_keypoints_2d", least: 21, most: 21 },
        face: { key: "face_keypoints_2d", least: 1, most: 500 },
    };
    const ANIMAL = 17; // points
    const MAX_SIDE = 8192; // px
    const MAX_FIGURES = 100;
    const NORMALISED = 2; // coordinates up to here are shares of the canvas
    const WRIST = { right: 4, left: 7 }; // body points that hands hang on
    const ELBOW = { right: 3, left: 6 };

    // Somebody who stands and looks at us: heights of the figure, from the middle of its top.
    const STANDING = [
        ...[[0, 0.1], [0, 0.2]],
        ...[[-0.1, 0.2], [-0.13, 0.35], [-0.14, 0.49], [0.1, 0.2], [0.13, 0.35], [0.14, 0.49]],
        ...[[-0.065, 0.52], [-0.07, 0.74], [-0.07, 0.95], [0.065, 0.52], [0.07, 0.74], [0.07, 0.95]],
        ...[[-0.02, 0.08], [0.02, 0.08], [-0.045, 0.095], [0.045, 0.095]],
    ];

    // An open hand, in its own lengths: along it from the wrist, and across it to the side of the thumb.
    const OPEN_HAND = [
        [0, 0],
        ...[[0.12, 0.16], [0.26, 0.27], [0.38, 0.34], [0.48, 0.39]],
        ...[[0.48, 0.17], [0.68, 0.2], [0.81, 0.215], [0.92, 0.225]],
        ...[[0.5, 0.05], [0.73, 0.055], [0.88, 0.06], [1, 0.062]],
        ...[[0.48, -0.07], [0.69, -0.085], [0.83, -0.095], [0.94, -0.1]],
        ...[[0.44, -0.18], [0.58, -0.215], [0.68, -0.235], [0.77, -0.25]],
    ];
    const HAND_TO_FOREARM = 0.75;

    /** The pose of a JSON text, or of the first of a list of poses. Throws an Error with a sentence. */
    function parse(json) {
        const { text } = controlstack.texts;
        let value;
        try {
            value = JSON.parse(json);
        } catch {
            throw new Error(text("poseNoJson"));
        }
        value = Array.isArray(value) ? value[0] : value;
        if (!value || !(Array.isArray(value.people) || Array.isArray(value.animals))) {
            throw new Error(text("poseNoPeople"));
        }
        const [width, height] = [value.canvas_width, value.canvas_height].map(Number).map(Math.trunc);
        if (!(width >= 1 && height >= 1 && width <= MAX_SIDE && height <= MAX_SIDE)) {
            throw new Error(text("poseNoCanvas", { most: MAX_SIDE }));
        }
        const [people, animals] = [value.people ?? [], value.animals ?? []];
        if (Math.max(people.length, animals.length) > MAX_FIGURES) {
            throw new Error(text("poseTooMany", { most: MAX_FIGURES }));
        }
        const read = people.map((person) => {
            const parts = Object.entries(PARTS).map(([name, { key, least, most }]) => [
                name,
                points(person?.[key], least, most),
            ]);
            return Object.fromEntries(parts);
        });
        const everybody = read.flatMap((person) => Object.values(person));
        const scale = isNormalised(everybody) ? [width, height] : [1, 1];
        return {
            width,
            height,
            people: read.map((person) => ({
                body: person.body.length ? scaled(person.body, scale) : Array.from({ length: 18 }, () => [0, 0, 0]),
                left: scaled(person.left, scale),
                right: scaled(person.right, scale),
                face: scaled(person.face, scale),
            })),
            animals: pixels(animals.map((animal) => points(animal, ANIMAL, ANIMAL)), width, height),
        };
    }

    /** Triplets from flat numbers or triplets; nothing from null. */
    function points(value, least, most) {
        const numbers = (value ?? []).flat?.();
        const right =
            Array.isArray(numbers) &&
            numbers.length % 3 === 0 &&
            numbers.every((number) => typeof number === "number" && Number.isFinite(number));
        const count = (numbers?.length ?? 0) / 3;
        if (!right || (count && (count < least || count > most))) {
            const takes = least === most ? least : `${least}–${most}`;
            throw new Error(controlstack.texts.text("poseNoPoints", { count: takes }));
        }
        return Array.from({ length: count }, (_, i) => numbers.slice(3 * i, 3 * i + 3));
    }

    function isNormalised(parts) {
        const there = parts.flat().filter((point) => point[2] > 0);
        return there.every(([x, y]) => Math.max(Math.abs(x), Math.abs(y)) <= NORMALISED);
    }

    function scaled(part, [across, down]) {
        return part.map(([x, y, confidence]) => [x * across, y * down, confidence]);
    }

    function pixels(figures, width, height) {
        const scale = isNormalised(figures) ? [width, height] : [1, 1];
        return figures.map((figure) => scaled(figure, scale));
    }

    /** The JSON text of a pose, as /controlnet/detect writes poses: in px, flat numbers, null for what is not there. */
    function write(pose) {
        const people = pose.people.map((person) =>
            Object.fromEntries(Object.entries(PARTS).map(([name, { key }]) => [key, flat(person[name])])),
        );
        const animals = pose.animals.length ? { animals: pose.animals.map(flat) } : {};
        return JSON.stringify({ people, ...animals, canvas_width: pose.width, canvas_height: pose.height });
    }

    function flat(part) {
        const blank = part.every(([x, y, confidence]) => confidence <= 0 && x === 0 && y === 0);
        return blank ? null : part.flat().map((number) => Math.round(number * 100) / 100);
    }

    /** An empty canvas. */
    function canvas(width, height) {
        return { width, height, people: [], animals: [] };
    }

    /** A pose with one more person, who stands in the middle, or beside those who stand there. */
    function withPerson(pose) {
        const tall = 0.9 * Math.min(pose.height, pose.width / 0.4);
        const beside = (pose.people.length % 3) - (pose.people.length % 3 === 2 ? 3 : 0); // middle, right, left
        const x = Math.min(Math.max(pose.width * (0.5 + 0.25 * beside), 0), pose.width);
        const top = (pose.height - tall) / 2;
        const body = STANDING.map(([across, down]) => [x + across * tall, top + down * tall, 1]);
        return { ...pose, people: [...pose.people, { body, left: [], right: [], face: [] }] };
    }

    function withoutPerson(pose, nth) {
        return { ...pose, people: pose.people.toSpliced(nth, 1) };
    }

    /** A pose with a hand at the end of a person's arm; `side` is "left" or "right". */
    function withHand(pose, nth, side) {
        const { body } = pose.people[nth];
        const wrist = place(body, WRIST[side]);
        const elbow = place(body, ELBOW[side]);
        const forearm = Math.hypot(wrist[0] - elbow[0], wrist[1] - elbow[1]) || 1;
        const along = [(wrist[0] - elbow[0]) / forearm, (wrist[1] - elbow[1]) / forearm];
        const thumb = side === "right" ? [along[1], -along[0]] : [-along[1], along[0]]; // to the body
        const length = forearm * HAND_TO_FOREARM;
        const hand = OPEN_HAND.map(([a, b]) => [
            wrist[0] + length * (a * along[0] + b * thumb[0]),
            wrist[1] + length * (a * along[1] + b * thumb[1]),
            1,
        ]);
        return withPart(pose, nth, side, hand);
    }

    function withoutHand(pose, nth, side) {
        return withPart(pose, nth, side, []);
    }

    /** A pose in which a person's whole part is shown or hidden. */
    function shown(pose, nth, part, visible) {
        const points = pose.people[nth][part].map(([x, y]) => [x, y, visible && (x || y) ? 1 : 0]);
        return withPart(pose, nth, part, points);
    }

    /** A pose with one point hidden. */
    function hide(pose, { person, part, point }) {
        const [x, y] = pose.people[person][part][point];
        return withPoint(pose, { person, part, point }, [x, y, 0]);
    }

    /** A pose with one body point shown again: where it was, or where it would be if the person stood. */
    function unhide(pose, { person, point }) {
        return withPoint(pose, { person, part: "body", point }, [...place(pose.people[person].body, point), 1]);
    }

    /** A pose with one point moved; a hand goes with its wrist. */
    function move(pose, { person, part, point }, across, down) {
        const [x, y] = pose.people[person][part][point];
        const moved = withPoint(pose, { person, part, point }, [x + across, y + down, 1]);
        const side = part === "body" && Object.keys(WRIST).find((name) => WRIST[name] === point);
        return side ? shift(moved, person, [side], across, down) : moved;
    }

    /** A pose with parts of a person moved. */
    function shift(pose, person, parts, across, down) {
        return parts.reduce((changed, part) => {
            const moved = changed.people[person][part].map((point) => {
                const [x, y, confidence] = point;
                return x || y || confidence > 0 ? [x + across, y + down, confidence] : point; // 0, 0 is nowhere
            });
            return withPart(changed, person, part, moved);
        }, pose);
    }

    /** A pose on a canvas of another size; figures keep their place and size in px. */
    function resized(pose, width, height) {
        const side = (value) => Math.min(Math.max(Math.round(value) || 1, 1), MAX_SIDE);
        return { ...pose, width: side(width), height: side(height) };
    }

    function withPart(pose, person, part, points) {
        return { ...pose, people: pose.people.with(person, { ...pose.people[person], [part]: points }) };
    }

    function withPoint(pose, { person, part, point }, value) {
        return withPart(pose, person, part, pose.people[person][part].with(point, value));
    }

    /** Where a body point is, or was; for one that never was, where the standing figure that fits best has it. */
    function place(body, point) {
        const [x, y, confidence] = body[point];
        if (confidence > 0 || x || y) {
            return [x, y];
        }
        const pairs = body.map((seen, i) => [seen, STANDING[i]]).filter(([seen]) => seen[2] > 0);
        const mean = (column, axis) => pairs.reduce((sum, pair) => sum + pair[column][axis], 0) / (pairs.length || 1);
        const [here, there] = [0, 1].map((column) => [mean(column, 0), mean(column, 1)]);
        let [along, square] = [0, 0];
        for (const [seen, standing] of pairs) {
            for (const axis of [0, 1]) {
                along += (seen[axis] - here[axis]) * (standing[axis] - there[axis]);
                square += (standing[axis] - there[axis]) ** 2;
            }
        }
        const scale = Math.max(along / (square || 1), 1); // least squares
        return [0, 1].map((axis) => here[axis] + scale * (STANDING[point][axis] - there[axis]));
    }

    controlstack.pose = {
        ...{ parse, write, canvas, withPerson, withoutPerson, withHand, withoutHand, shown, hide, unhide },
        ...{ move, shift, resized, PARTS },
    };
})((globalThis.controlstack ??= {}));
