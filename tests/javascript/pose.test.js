"use strict";

const assert = require("node:assert/strict");
const test = require("node:test");

require("../../javascript/texts.js");
require("../../javascript/pose.js");
const { pose } = globalThis.controlstack;

const STANDING = pose.withPerson(pose.canvas(512, 768));

/** The distance of two points. */
function far(a, b) {
    return Math.hypot(a[0] - b[0], a[1] - b[1]);
}

test("a pose goes to JSON and back", () => {
    const both = pose.withHand(pose.withHand(STANDING, 0, "left"), 0, "right");
    const again = pose.parse(pose.write(both));
    assert.equal(pose.write(again), pose.write(both));
    assert.deepEqual(
        ["left", "right", "body", "face"].map((part) => again.people[0][part].length),
        [21, 21, 18, 0],
    );
    assert.equal(JSON.parse(pose.write(both)).people[0].face_keypoints_2d, null);
});

test("triplets and shares of the canvas are read as flat numbers in px are", () => {
    const flat = JSON.parse(pose.write(STANDING));
    const points = flat.people[0].pose_keypoints_2d;
    const shares = points.map((number, i) => number / [512, 768, 1][i % 3]);
    const triplets = Array.from({ length: 18 }, (_, i) => points.slice(3 * i, 3 * i + 3));
    for (const body of [shares, triplets]) {
        const read = pose.parse(JSON.stringify({ ...flat, people: [{ pose_keypoints_2d: body }] }));
        for (const [i, point] of read.people[0].body.entries()) {
            assert.ok(far(point, triplets[i]) < 1e-6);
        }
    }
});

test("of a list of poses the first is read; animals come through", () => {
    const animal = Array.from({ length: 51 }, (_, i) => i);
    const one = { animals: [animal], canvas_width: 64, canvas_height: 64 };
    const read = pose.parse(JSON.stringify([one, null]));
    assert.deepEqual(JSON.parse(pose.write(read)).animals, [animal]);
    assert.deepEqual(read.people, []);
});

for (const [json, sentence] of [
    ["{", /not JSON/],
    ["[]", /neither people nor animals/],
    ['{"people": []}', /canvas_width/],
    ['{"people": [], "canvas_width": 9000, "canvas_height": 1}', /1 to 8192/],
    ['{"people": [{"pose_keypoints_2d": [1, 2, 3]}], "canvas_width": 9, "canvas_height": 9}', /18 points/],
    ['{"people": [{"hand_left_keypoints_2d": ["a"]}], "canvas_width": 9, "canvas_height": 9}', /21 points/],
    ['{"people": [{"pose_keypoints_2d": "abc"}], "canvas_width": 9, "canvas_height": 9}', /18 points/],
    [JSON.stringify({ people: Array(101).fill({}), canvas_width: 9, canvas_height: 9 }), /more than 100/],
]) {
    test(`a mistake is told: ${json.slice(0, 40)}`, () => assert.throws(() => pose.parse(json), sentence));
}

test("a point moves alone, a wrist takes its hand along, and the pose before is as it was", () => {
    const before = pose.withHand(STANDING, 0, "right");
    const written = pose.write(before);
    const nose = pose.move(before, { person: 0, part: "body", point: 0 }, 5, -3);
    const [x, y] = before.people[0].body[0];
    assert.deepEqual(nose.people[0].body[0], [x + 5, y - 3, 1]);
    assert.equal(nose.people[0].right, before.people[0].right);
    const wrist = pose.move(before, { person: 0, part: "body", point: 4 }, 10, 20);
    for (const [i, point] of wrist.people[0].right.entries()) {
        assert.ok(Math.abs(far(point, before.people[0].right[i]) - Math.hypot(10, 20)) < 1e-9);
    }
    assert.equal(pose.write(before), written);
});

test("a hand lies along its forearm, three quarters as long, thumbs to the body", () => {
    const both = pose.withHand(pose.withHand(STANDING, 0, "left"), 0, "right").people[0];
    for (const [side, elbow, wrist] of [["right", 3, 4], ["left", 6, 7]]) {
        const forearm = far(both.body[elbow], both.body[wrist]);
        assert.ok(Math.abs(far(both[side][0], both[side][12]) / forearm - 0.75) < 0.01);
        assert.ok(far(both[side][4], both.body[1]) < far(both[side][20], both.body[1]));
    }
});

test("a hidden point keeps its place and comes back there", () => {
    const nose = { person: 0, part: "body", point: 0 };
    const hidden = pose.hide(STANDING, nose);
    assert.deepEqual(hidden.people[0].body[0], [...STANDING.people[0].body[0].slice(0, 2), 0]);
    assert.equal(pose.write(pose.unhide(hidden, nose)), pose.write(STANDING));
});

test("a point that nobody ever saw comes where the figure has it", () => {
    const json = JSON.parse(pose.write(STANDING));
    json.people[0].pose_keypoints_2d.splice(3 * 10, 3, 0, 0, 0); // the right ankle
    const found = pose.unhide(pose.parse(JSON.stringify(json)), { person: 0, point: 10 });
    assert.ok(far(found.people[0].body[10], STANDING.people[0].body[10]) < 1);
});

test("a face is hidden and shown; what lies at 0, 0 stays hidden", () => {
    const json = JSON.parse(pose.write(STANDING));
    json.people[0].face_keypoints_2d = [5, 6, 0.5, 0, 0, 0, 7, 8, 1];
    const seen = pose.parse(JSON.stringify(json));
    const hidden = pose.shown(seen, 0, "face", false);
    assert.deepEqual(hidden.people[0].face.map((point) => point[2]), [0, 0, 0]);
    assert.deepEqual(pose.shown(hidden, 0, "face", true).people[0].face, [[5, 6, 1], [0, 0, 0], [7, 8, 1]]);
});

test("people come, move whole and go", () => {
    const two = pose.withPerson(STANDING);
    const moved = pose.shift(two, 1, ["body", "left", "right", "face"], 3, 4);
    assert.equal(far(moved.people[1].body[13], two.people[1].body[13]), 5);
    assert.equal(moved.people[0], two.people[0]);
    assert.equal(pose.write(pose.withoutPerson(moved, 1)), pose.write(STANDING));
});

test("a canvas has whole sides within the limits", () => {
    const { width, height } = pose.resized(STANDING, 0, 99999.5);
    assert.deepEqual([width, height], [1, 8192]);
});
