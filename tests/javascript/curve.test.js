"use strict";

const assert = require("node:assert/strict");
const test = require("node:test");

require("../../javascript/curve.js");
const { curve } = globalThis.controlstack;
const examples = require("./curves.json"); // tests/javascript/test_javascript.py holds the Python side to it

for (const { text, written, at } of examples) {
    test(`the curve ${JSON.stringify(text)}`, () => {
        const parsed = curve.parse(text);
        if (written === undefined) {
            assert.equal(parsed, null);
            return;
        }
        assert.equal(curve.write(parsed), written);
        for (const [share, factor] of at) {
            assert.ok(Math.abs(curve.at(parsed, share) - factor) < 1e-9, `at ${share}`);
        }
    });
}

test("every ready shape is a curve, written as the language writes it", () => {
    for (const shape of Object.values(curve.PRESETS)) {
        assert.equal(curve.write(curve.parse(shape)), shape);
    }
});

test("a moved point stays between its neighbours and within what a curve may be", () => {
    const ramp = curve.parse("0@0, 1@0.5, 0@1");
    assert.deepEqual(curve.move(ramp, 1, 2, 99).points, [[0, 0], [1, curve.MOST], [1, 0]]);
    assert.deepEqual(curve.move(ramp, 0, -1, 0.5).points[0], [0, 0.5]);
    assert.deepEqual(ramp.points[1], [0.5, 1], "the curve before is as it was");
});

test("points come and go; the last one stays", () => {
    const { curve: more, nth } = curve.add(curve.parse("0@0, 1@1 smooth"), 0.5, 2);
    assert.equal(curve.write(more), "0@0, 2@0.5, 1@1 smooth");
    assert.equal(nth, 1);
    assert.equal(curve.write(curve.remove(more, 0)), "2@0.5, 1@1 smooth");
    assert.equal(curve.write(curve.remove(curve.parse("1@0"), 0)), "1@0");
});
