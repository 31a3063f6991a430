"use strict";

const assert = require("node:assert/strict");
const test = require("node:test");

require("../../javascript/history.js");
const { History } = globalThis.controlstack;

test("undo and redo walk the states; a new one forgets what was undone", () => {
    const history = new History("a");
    assert.equal(history.canUndo, false);
    history.put("b");
    history.put("c");
    assert.equal(history.undo(), "b");
    assert.equal(history.undo(), "a");
    assert.equal(history.undo(), "a");
    assert.equal(history.redo(), "b");
    history.put("d");
    assert.equal(history.canRedo, false);
    assert.equal(history.redo(), "d");
    assert.equal(history.undo(), "b");
});

test("the same state twice is one step", () => {
    const [first, second] = [{}, {}];
    const history = new History(first);
    history.put(second);
    history.put(second);
    assert.equal(history.undo(), first);
});

test("two hundred steps are kept", () => {
    const history = new History(0);
    for (let i = 1; i <= 1000; i++) {
        history.put(i);
    }
    for (let i = 0; i < 1000; i++) {
        history.undo();
    }
    assert.equal(history.now, 801);
});
