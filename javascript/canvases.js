/**
 * Gradio's picture editor (from 4 on) paints its canvas sixty times a second, also while nobody can see it. Where WebGL
 * runs on the processor, those frames keep it busy and pile up. So a canvas that is not on the screen is not painted.
 * What goes into textures is: that is how the editor reads its pictures back.
 */
(function (controlstack) {
    "use strict";

    const EDITOR = ".stage-wrap canvas";
    const PAINTS = ["clear", "drawArrays", "drawArraysInstanced", "drawElements", "drawElementsInstanced"];

    const known = new WeakSet();
    const seen = new WeakSet();
    const watcher = globalThis.IntersectionObserver && new globalThis.IntersectionObserver(watched);

    function watched(entries) {
        for (const { target, isIntersecting } of entries) {
            if (isIntersecting) {
                seen.add(target);
            } else {
                seen.delete(target);
            }
        }
    }

    /** Have a canvas paint on the screen only while it is there. */
    function spare(canvas) {
        const gl = canvas.getContext("webgl2") ?? canvas.getContext("webgl");
        if (!gl) {
            return;
        }
        const bind = gl.bindFramebuffer;
        let onScreen = gl.getParameter(gl.FRAMEBUFFER_BINDING) === null;
        gl.bindFramebuffer = (target, buffer) => {
            if (target !== gl.READ_FRAMEBUFFER) {
                onScreen = !buffer;
            }
            bind.call(gl, target, buffer);
        };
        for (const name of PAINTS.filter((one) => gl[one])) {
            const paint = gl[name];
            gl[name] = (...given) => {
                if (!onScreen || seen.has(canvas)) {
                    paint.apply(gl, given);
                }
            };
        }
    }

    function look() {
        for (const canvas of controlstack.page.root().querySelectorAll(EDITOR)) {
            if (!known.has(canvas)) {
                known.add(canvas);
                seen.add(canvas); // until it is known better
                watcher.observe(canvas);
                spare(canvas);
            }
        }
    }

    (controlstack.looks ??= []).push(look);
})((globalThis.controlstack ??= {}));
