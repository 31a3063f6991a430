/** Where a pose is seen and touched: a picture, figures over it, zoom and pan, and what a drag does to them. */
(function (controlstack) {
    "use strict";

    const ZOOM = 1.25; // per press or notch
    const DEEPEST = 40; // px of the canvas across the whole stage
    const AROUND = 0.04; // of the canvas, room at each side when everything is shown
    const EVERYTHING = ["body", "left", "right", "face"];

    class PoseStage {
        /** `hear` has `select(ref)`, `preview(pose)` while something is dragged, `change(pose)` after, `hide(ref)`. */
        constructor(hear) {
            const { svg } = controlstack.dom;
            this.hear = hear;
            this.pose = controlstack.pose.canvas(1, 1);
            this.selected = null;
            this.hold = null;
            this.ground = svg("rect", { class: "cnet-pose-ground" });
            this.picture = svg("image", { class: "cnet-pose-picture", preserveAspectRatio: "none" });
            this.figures = svg("g");
            this.node = svg(
                "svg",
                {
                    class: "cnet-pose-stage",
                    onpointerdown: (event) => this.grab(event),
                    onpointermove: (event) => this.drag(event),
                    onpointerup: () => this.drop(),
                    onpointercancel: () => this.drop(),
                    oncontextmenu: (event) => this.menu(event),
                    onfocusin: (event) => this.select(reference(event.target)),
                },
                ...[this.ground, this.picture, this.figures],
            );
            this.node.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
        }

        /** Draw a pose with one point marked. */
        show(pose, selected) {
            const focused = this.figures.contains(document.activeElement);
            this.pose = pose;
            this.selected = selected;
            for (const node of [this.ground, this.picture]) {
                node.setAttribute("width", pose.width);
                node.setAttribute("height", pose.height);
            }
            this.draw();
            if (focused) {
                this.marked()?.focus({ preventScroll: true });
            }
        }

        /** Never thinner than on a canvas of one px to a px of the screen. */
        draw() {
            this.figures.replaceChildren(...controlstack.poseView.draw(this.pose, Math.max(1, this.unit())));
            this.marked()?.classList.add("cnet-selected");
        }

        marked() {
            const { person, part, point } = this.selected ?? {};
            const data = `[data-person="${person}"][data-part="${part}"][data-point="${point}"]`;
            return this.selected && this.figures.querySelector(data);
        }

        /** Put a picture behind the figures, seen through by so much; null takes it away. */
        behind(address, opacity) {
            this.picture.toggleAttribute("hidden", !address);
            if (address) {
                this.picture.setAttribute("href", address);
            }
            this.picture.setAttribute("opacity", opacity);
        }

        /** Show the whole canvas. */
        fit() {
            const { width, height } = this.pose;
            const [x, y] = [width * AROUND, height * AROUND];
            this.look({ x: -x, y: -y, width: width + 2 * x, height: height + 2 * y });
        }

        look(view) {
            this.view = view;
            this.node.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
            this.draw();
        }

        /** Zoom by so many notches, about a place on the canvas or the middle. */
        zoom(notches, about) {
            const { x, y, width, height } = this.view;
            const most = 4 * Math.max(this.pose.width, this.pose.height);
            const wanted = Math.min(Math.max(width * ZOOM ** -notches, DEEPEST), most);
            const by = wanted / width;
            const [across, down] = about ?? [x + width / 2, y + height / 2];
            this.look({
                x: across - (across - x) * by,
                y: down - (down - y) * by,
                width: wanted,
                height: height * by,
            });
        }

        /** Pixels of the canvas in one of the screen. */
        unit() {
            return 1 / (this.node.getScreenCTM()?.a || 1);
        }

        /** The place on the canvas under the pointer. */
        where(event) {
            const toCanvas = this.node.getScreenCTM().inverse();
            const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(toCanvas);
            return [x, y];
        }

        wheel(event) {
            event.preventDefault();
            this.zoom(event.deltaY < 0 ? 1 : -1, this.where(event));
        }

        select(ref) {
            if (ref) {
                this.hear.select(ref);
            }
        }

        grab(event) {
            if (event.button !== 0 && event.button !== 1) {
                return;
            }
            const ref = event.button === 0 ? reference(event.target) : null;
            const person = event.button === 0 ? event.target.dataset.person : undefined;
            this.hold = { from: this.where(event), moved: false, act: this.act(ref, person, event.shiftKey) };
            this.node.setPointerCapture(event.pointerId);
            this.select(ref ?? (person === undefined ? null : { person: Number(person) }));
            this.marked()?.focus({ preventScroll: true });
            event.preventDefault();
        }

        /** What dragging does: a function from the distance, in px of the canvas, to the pose; none moves the view. */
        act(ref, person, whole) {
            const before = this.pose;
            if (ref && !whole) {
                return (across, down) => controlstack.pose.move(before, ref, across, down);
            }
            if (ref && ref.part !== "body") {
                return (across, down) => controlstack.pose.shift(before, ref.person, [ref.part], across, down);
            }
            if (person !== undefined) {
                return (across, down) => controlstack.pose.shift(before, Number(person), EVERYTHING, across, down);
            }
            return null;
        }

        drag(event) {
            if (!this.hold) {
                return;
            }
            const [x, y] = this.where(event);
            const [across, down] = [x - this.hold.from[0], y - this.hold.from[1]];
            if (this.hold.act) {
                this.hold.moved ||= Math.hypot(across, down) > this.unit();
                if (this.hold.moved) {
                    this.hear.preview(this.hold.act(across, down));
                }
            } else {
                this.look({ ...this.view, x: this.view.x - across, y: this.view.y - down });
            }
        }

        drop() {
            const held = this.hold;
            this.hold = null;
            if (held?.act && held.moved) {
                this.hear.change(this.pose);
            }
        }

        menu(event) {
            event.preventDefault();
            const ref = reference(event.target);
            if (ref) {
                this.hear.hide(ref);
            }
        }
    }

    /** The point that a node stands for, `{person, part, point}`. */
    function reference(node) {
        const { person, part, point } = node.dataset ?? {};
        return part === undefined ? null : { person: Number(person), part, point: Number(point) };
    }

    controlstack.PoseStage = PoseStage;
})((globalThis.controlstack ??= {}));
