/** The plot beside a weight curve's text: drag its points, add and remove them, take a ready shape. */
(function (controlstack) {
    "use strict";

    const CURVE = "_weight_curve";
    const ENDS = ["_controlnet_start_control_step_slider", "_controlnet_ending_control_step_slider"];
    const HIRES_ENDS = ["_hires_start", "_hires_end"];
    const WIDTH = 360; // of the drawing, in its own units
    const HEIGHT = 194;
    const EDGE = { left: 34, right: 12, top: 10, bottom: 26 };
    const INNER = { width: WIDTH - EDGE.left - EDGE.right, height: HEIGHT - EDGE.top - EDGE.bottom };
    const STEPS = 120; // straight pieces of the drawn line
    const FINE = { share: 0.01, factor: 0.05 };
    const COARSE = 10; // fine steps, with Shift
    const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

    const editors = new WeakMap();

    class CurveEditor {
        /** In an element that names a unit and, if it is not the usual one, the field with the text. */
        constructor(place) {
            const { unit, field = CURVE } = place.dataset;
            this.field = unit + field;
            this.ends = (field === CURVE ? ENDS : HIRES_ENDS).map((suffix) => unit + suffix);
            this.curve = null;
            this.shown = null;
            this.selected = 0;
            this.dragging = false;
            this.build(place);
        }

        build(place) {
            const { element, svg, button } = controlstack.dom;
            const { text } = controlstack.texts;
            const { PRESETS } = controlstack.curve;
            this.plot = svg("svg", {
                class: "cnet-curve-plot",
                viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
                role: "group",
                "aria-label": text("curvePlot"),
                ondblclick: (event) => this.add(...this.where(event)),
                onpointerdown: (event) => this.grab(event),
                onpointermove: (event) => this.drag(event),
                onpointerup: () => this.drop(),
                onpointercancel: () => this.drop(),
                onkeydown: (event) => this.key(event),
            });
            this.presets = element(
                "select",
                { class: "cnet-select", "aria-label": text("curvePreset"), onchange: () => this.take() },
                element("option", { value: "" }, text("curvePreset")),
                ...Object.keys(PRESETS).map((name) => element("option", { value: name }, text(name))),
            );
            this.smooth = element("input", { type: "checkbox", onchange: () => this.bend() });
            this.said = element("span", { class: "cnet-curve-said", role: "status" });
            const bar = element(
                "div",
                { class: "cnet-bar" },
                this.presets,
                element("label", { class: "cnet-check" }, this.smooth, text("curveSmooth")),
                button("+", text("curveAdd"), () => this.addInTheMiddle()),
                button("−", text("curveRemove"), () => this.remove()),
                button("×", text("curveClear"), () => this.put(null)),
            );
            place.replaceChildren(bar, this.plot, this.said);
        }

        /** Draw what the text says, unless it is drawn already or in a hand. */
        follow() {
            const line = controlstack.page.field(this.field);
            if (!line || this.dragging) {
                return;
            }
            const state = `${line.value}|${this.window()}`;
            if (state !== this.shown) {
                this.shown = state;
                this.curve = line.value.trim() ? controlstack.curve.parse(line.value) : null;
                this.wrong = Boolean(line.value.trim()) && !this.curve;
                this.draw();
            }
        }

        /** The unit's start and end, shares of the pass. */
        window() {
            return this.ends.map((id, otherwise) => {
                const value = Number.parseFloat(controlstack.page.field(id)?.value);
                return Number.isFinite(value) ? value : otherwise;
            });
        }

        /** Put the curve, or none, into the text; the server hears of it. */
        put(curve) {
            const line = controlstack.page.field(this.field);
            if (line) {
                controlstack.page.write(line, curve ? controlstack.curve.write(curve) : "");
            }
            this.follow();
        }

        take() {
            const shape = controlstack.curve.PRESETS[this.presets.value];
            this.presets.value = "";
            if (shape) {
                this.selected = 0;
                this.put(controlstack.curve.parse(shape));
            }
        }

        bend() {
            this.put({ ...this.some(), smooth: this.smooth.checked });
        }

        /** The curve; where there is none, the constant one that it amounts to. */
        some() {
            return this.curve ?? controlstack.curve.parse(controlstack.curve.PRESETS.constant);
        }

        add(share, factor) {
            const { curve, nth } = controlstack.curve.add(this.some(), rounded(share), rounded(factor));
            this.selected = nth;
            this.put(curve);
            this.focus();
        }

        /** A point in the widest gap. */
        addInTheMiddle() {
            const curve = this.some();
            const shares = [0, ...curve.points.map((point) => point[0]), 1];
            const gaps = shares.slice(1).map((share, i) => share - shares[i]);
            const widest = gaps.indexOf(Math.max(...gaps));
            const share = (shares[widest] + shares[widest + 1]) / 2;
            this.add(share, controlstack.curve.at(curve, share));
        }

        remove() {
            if (this.curve) {
                const left = controlstack.curve.remove(this.curve, this.selected);
                this.selected = Math.min(this.selected, left.points.length - 1);
                this.put(left);
                this.focus();
            }
        }

        grab(event) {
            const nth = event.target.dataset?.nth;
            if (nth !== undefined && event.button === 0) {
                this.selected = Number(nth);
                this.dragging = true;
                this.plot.setPointerCapture(event.pointerId);
                this.draw();
                this.focus();
                event.preventDefault();
            }
        }

        drag(event) {
            if (this.dragging) {
                const [share, factor] = this.where(event);
                this.curve = controlstack.curve.move(this.curve, this.selected, rounded(share), rounded(factor));
                this.draw();
            }
        }

        drop() {
            if (this.dragging) {
                this.dragging = false;
                this.put(this.curve);
            }
        }

        key(event) {
            const nth = event.target.dataset?.nth;
            const step = ARROWS[event.key];
            if (nth === undefined) {
                return;
            }
            this.selected = Number(nth);
            if (step) {
                const [share, factor] = this.curve.points[this.selected];
                const size = event.shiftKey ? COARSE : 1;
                const there = [share + step[0] * size * FINE.share, factor + step[1] * size * FINE.factor];
                const [low, high] = this.range();
                there[1] = Math.min(Math.max(there[1], low), high);
                this.put(controlstack.curve.move(this.curve, this.selected, ...there.map(rounded)));
                this.focus();
            } else if (event.key === "Delete" || event.key === "Backspace") {
                this.remove();
            } else {
                return;
            }
            event.preventDefault();
            event.stopPropagation();
        }

        focus() {
            this.plot.querySelector(`[data-nth="${this.selected}"]`)?.focus();
        }

        /** The factors that the plot reaches: 0 to 2, or as far as the text goes. */
        range() {
            const factors = this.some().points.map((point) => point[1]);
            return [Math.min(0, ...factors), Math.max(2, ...factors)];
        }

        /** Share and factor under the pointer, within the plot. */
        where(event) {
            const box = this.plot.getBoundingClientRect();
            const across = ((event.clientX - box.left) / box.width) * WIDTH - EDGE.left;
            const down = ((event.clientY - box.top) / box.height) * HEIGHT - EDGE.top;
            const [low, high] = this.range();
            const within = (value) => Math.min(Math.max(value, 0), 1);
            return [within(across / INNER.width), high - within(down / INNER.height) * (high - low)];
        }

        x(share) {
            return EDGE.left + share * INNER.width;
        }

        y(factor) {
            const [low, high] = this.range();
            return EDGE.top + ((high - factor) / (high - low)) * INNER.height;
        }

        draw() {
            const { text } = controlstack.texts;
            const focused = this.plot.contains(document.activeElement);
            this.smooth.checked = Boolean(this.curve?.smooth);
            this.said.textContent = this.wrong ? text("curveWrong") : this.curve ? "" : text("curveNone");
            this.said.classList.toggle("cnet-wrong", Boolean(this.wrong));
            this.plot.replaceChildren(...this.grid(), ...this.outside(), this.line(), ...this.points());
            if (focused) {
                this.focus();
            }
        }

        grid() {
            const [low, high] = this.range();
            const [left, right, top, bottom] = [this.x(0), this.x(1), this.y(high), this.y(low)];
            const levels = [...new Set([low, 0, 1, high])].flatMap((factor) => [
                grid(left, this.y(factor), right, this.y(factor)),
                number(factor, { x: left - 11, y: this.y(factor) + 4, "text-anchor": "end" }),
            ]);
            const moments = [0, 0.25, 0.5, 0.75, 1].flatMap((share) => [
                grid(this.x(share), top, this.x(share), bottom),
                number(share, { x: this.x(share), y: bottom + 19, "text-anchor": "middle" }),
            ]);
            return [...levels, ...moments];
        }

        /** Shades over the steps in which the unit does not act. */
        outside() {
            const [start, end] = this.window();
            const shade = (from, to) =>
                controlstack.dom.svg("rect", {
                    class: "cnet-curve-outside",
                    x: this.x(from),
                    y: EDGE.top,
                    width: Math.max(this.x(to) - this.x(from), 0),
                    height: INNER.height,
                });
            return [shade(0, start), shade(end, 1)];
        }

        line() {
            const curve = this.some();
            const shares = Array.from({ length: STEPS + 1 }, (_, i) => i / STEPS);
            const even = shares.map((share) => [share, controlstack.curve.at(curve, share)]);
            const first = [0, curve.points[0][1]];
            // a jump is drawn as two points of one share
            const path = curve.smooth ? even : [first, ...curve.points, [1, curve.points.at(-1)[1]]];
            return controlstack.dom.svg("polyline", {
                class: this.curve ? "cnet-curve-line" : "cnet-curve-line cnet-curve-idle",
                points: path.map(([share, factor]) => `${this.x(share)},${this.y(factor)}`).join(" "),
            });
        }

        points() {
            const { text } = controlstack.texts;
            return (this.curve?.points ?? []).map(([share, factor], nth) =>
                controlstack.dom.svg("circle", {
                    class: nth === this.selected ? "cnet-curve-point cnet-selected" : "cnet-curve-point",
                    cx: this.x(share),
                    cy: this.y(factor),
                    r: 6,
                    tabindex: 0,
                    role: "button",
                    "data-nth": nth,
                    "aria-label": text("curvePoint", { n: nth + 1, factor, share }),
                }),
            );
        }
    }

    function grid(x1, y1, x2, y2) {
        return controlstack.dom.svg("line", { class: "cnet-curve-grid", x1, y1, x2, y2 });
    }

    function number(value, attributes) {
        return controlstack.dom.svg("text", { class: "cnet-curve-number", ...attributes }, String(value));
    }

    function rounded(value) {
        return Math.round(value * 100) / 100;
    }

    function look() {
        for (const place of controlstack.page.root().querySelectorAll(".cnet-curve-editor[data-unit]")) {
            if (!editors.has(place) || !place.firstElementChild) {
                editors.set(place, new CurveEditor(place));
            }
            editors.get(place).follow();
        }
    }

    (controlstack.looks ??= []).push(look);
})((globalThis.controlstack ??= {}));
