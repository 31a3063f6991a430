/** Which points of a figure are joined, and in which colours: those of pose.py, which control networks know. */
(function (controlstack) {
    "use strict";

    // A limb and the point at the same place in the list share a colour. Source: CMU OpenPose, COCO model.
    const LIMBS = [
        ...[[1, 2], [1, 5], [2, 3], [3, 4], [5, 6], [6, 7], [1, 8], [8, 9], [9, 10], [1, 11], [11, 12], [12, 13]],
        ...[[1, 0], [0, 14], [14, 16], [0, 15], [15, 17]],
    ];
    const COLOURS = [
        ...[[255, 0, 0], [255, 85, 0], [255, 170, 0], [255, 255, 0], [170, 255, 0], [85, 255, 0], [0, 255, 0]],
        ...[[0, 255, 85], [0, 255, 170], [0, 255, 255], [0, 170, 255], [0, 85, 255], [0, 0, 255], [85, 0, 255]],
        ...[[170, 0, 255], [255, 0, 255], [255, 0, 170], [255, 0, 85]],
    ];
    const LIMB_BRIGHTNESS = 0.6;

    // Five fingers of four bones, each from the wrist outwards.
    const BONES = Array.from({ length: 20 }, (_, i) => [i % 4 ? i : 0, i + 1]);

    // Source: AP-10K's order of points, and the colours of ControlNet's animal models.
    const ANIMAL_LIMBS = [
        [[0, 1], [255, 255, 255]],
        [[1, 2], [100, 255, 100]],
        [[0, 2], [150, 255, 255]],
        [[2, 3], [100, 50, 255]],
        [[3, 8], [50, 150, 200]],
        [[8, 9], [0, 255, 255]],
        [[9, 10], [0, 150, 0]],
        [[3, 5], [0, 0, 255]],
        [[5, 6], [0, 0, 150]],
        [[6, 7], [255, 50, 255]],
        [[3, 4], [255, 0, 255]],
        [[4, 14], [255, 0, 0]],
        [[14, 15], [150, 0, 0]],
        [[15, 16], [255, 255, 100]],
        [[4, 11], [0, 150, 0]],
        [[11, 12], [255, 255, 0]],
        [[12, 13], [150, 150, 150]],
    ];

    function css(colour, brightness = 1) {
        return `rgb(${colour.map((channel) => Math.trunc(channel * brightness)).join(" ")})`;
    }

    function jointColour(point) {
        return css(COLOURS[point]);
    }

    function limbColour(limb) {
        return css(COLOURS[limb], LIMB_BRIGHTNESS);
    }

    /** Bones run through the hues. */
    function boneColour(bone) {
        return `hsl(${(360 * bone) / BONES.length} 100% 50%)`;
    }

    controlstack.figure = { LIMBS, COLOURS, BONES, ANIMAL_LIMBS, css, jointColour, limbColour, boneColour };
})((globalThis.controlstack ??= {}));
