/**
 * Every text that JavaScript shows. Hosts with localisations translate them: `window.localization` has the English
 * text as key (localizations/zh_CN.json is ours).
 */
(function (controlstack) {
    "use strict";

    const ENGLISH = {
        units: "{n} units",
        oneUnit: "1 unit",
        copy: "Copy",
        copied: "Copied",
        copyByHand: "Press Ctrl+C",
        cancel: "Cancel",

        curvePreset: "Shape…",
        curveSmooth: "Smooth",
        curveAdd: "Add a point (or double-click on the plot)",
        curveRemove: "Remove the selected point (Delete)",
        curveClear: "Clear: the weight is the same in every step",
        curveNone: "No curve: the same weight in every step",
        curveWrong: "This text is no curve. Write for example 0@0, 1@0.2, 1@0.6, 0@1",
        curvePlot: "Factor of the weight along the sampling pass",
        curvePoint: "Point {n}: factor {factor} at {share}",
        constant: "Constant",
        "ramp up": "Ramp up",
        "ramp down": "Ramp down",
        bump: "Bump",
        dip: "Dip",
        "late start": "Late start",
        "early end": "Early end",

        pose: "Pose editor",
        poseSend: "Send to the unit",
        poseUndo: "Undo (Ctrl+Z)",
        poseRedo: "Redo (Ctrl+Y)",
        poseZoomIn: "Zoom in (+)",
        poseZoomOut: "Zoom out (−)",
        poseFitShort: "Fit",
        poseFit: "Show everything (0)",
        poseImport: "Import JSON",
        poseExport: "Export JSON",
        poseAddPerson: "Add a person",
        poseRemovePerson: "Remove this person",
        posePerson: "Person {n}",
        poseAnimals: "{n} animals (shown only)",
        poseLeftHand: "Left hand",
        poseRightHand: "Right hand",
        poseFace: "Face",
        poseWidth: "Width",
        poseHeight: "Height",
        posePicture: "Picture",
        poseHelp:
            "Drag a point; with Shift its whole hand, face or body. Drag a limb to move the person. Right click or " +
            "Delete hides a point, arrow keys move it. The wheel zooms, dragging the background moves the view.",
        poseWrong: "This is no pose. {why}",
        poseNoJson: "It is not JSON.",
        poseNoPeople: "It has neither people nor animals.",
        poseNoCanvas: "canvas_width and canvas_height have to be whole numbers from 1 to {most}.",
        poseTooMany: "There are more than {most} figures.",
        poseNoPoints: "A part takes {count} points, each x, y and confidence as numbers.",
        poseEmpty: "Nobody is on the canvas. Add a person.",

        mistake: "Unit {n}: {sentence}",
        mistakeShow: "Open this unit",

        toolCanvas: "New canvas",
        toolDraw: "Draw a mask or a region",
        toolWebcam: "Take the picture from a webcam",
        toolMirror: "Mirror the picture",
        toolDimensions: "Make the picture's size that of the pictures to paint",
        toolRun: "Run the preprocessor",
        toolRefresh: "Look for models again",
        toolPose: "Edit the pose",
        toolClose: "Close the preview",

        rowHelp: "Arrow keys go through the units, Alt with them moves this one, Enter opens it, Delete removes it",
    };

    const BODY = [
        ...["Nose", "Neck", "Right shoulder", "Right elbow", "Right wrist", "Left shoulder", "Left elbow"],
        ...["Left wrist", "Right hip", "Right knee", "Right ankle", "Left hip", "Left knee", "Left ankle"],
        ...["Right eye", "Left eye", "Right ear", "Left ear"],
    ];

    function translated(english) {
        return globalThis.localization?.[english] || english;
    }

    /** The text of a key in the host's language, `{name}` replaced by values. */
    function text(key, values = {}) {
        return translated(ENGLISH[key]).replace(/\{(\w+)\}/g, (_, name) => values[name]);
    }

    /** The name of a body point by its number. */
    function joint(number) {
        return translated(BODY[number]);
    }

    controlstack.texts = { text, joint, ENGLISH, BODY };
})((globalThis.controlstack ??= {}));
