/** The pose editor: a dialog over the page that changes the pose of a unit and sends it back. */
(function (controlstack) {
    "use strict";

    const EDIT = "_pose_edit";
    const SIDE = 512; // px, of a canvas about which nothing is known
    const OPACITY = 0.6;
    const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const ZOOMS = { "+": 1, "=": 1, "-": -1 };

    const editors = new Map(); // by unit: a closed editor keeps what was done, until the unit has another pose

    class PoseEditor {
        constructor(prefix) {
            this.prefix = prefix;
            this.selected = null;
            this.stage = new controlstack.PoseStage({
                select: (ref) => this.select(ref),
                preview: (pose) => this.stage.show(pose, this.selected),
                change: (pose) => this.change(pose),
                hide: (ref) => this.hide(ref),
            });
            this.people = new controlstack.PosePeople({
                select: (ref) => this.select(ref),
                change: (pose) => this.change(pose),
            });
            this.build();
        }

        build() {
            const { element, button, icon } = controlstack.dom;
            const { text } = controlstack.texts;
            this.undo = icon("undo", text("poseUndo"), () => this.step("undo"));
            this.redo = icon("redo", text("poseRedo"), () => this.step("redo"));
            this.width = this.side("poseWidth", "width");
            this.height = this.side("poseHeight", "height");
            this.opacity = element("input", {
                ...{ type: "range", min: 0, max: 1, step: 0.05, value: OPACITY, "aria-label": text("posePicture") },
                oninput: () => this.behind(),
            });
            this.file = element("input", { type: "file", accept: ".json", hidden: true, onchange: () => this.load() });
            this.said = element("p", { class: "cnet-wrong", role: "alert" });
            const bar = element(
                "div",
                { class: "cnet-bar cnet-pose-bar" },
                group(this.undo, this.redo),
                group(
                    button("−", text("poseZoomOut"), () => this.stage.zoom(-1)),
                    button("+", text("poseZoomIn"), () => this.stage.zoom(1)),
                    button(text("poseFitShort"), text("poseFit"), () => this.stage.fit()),
                ),
                group(
                    button(text("poseImport"), text("poseImport"), () => this.file.click()),
                    button(text("poseExport"), text("poseExport"), () => this.save()),
                ),
                group(this.width, "×", this.height),
                element("label", { class: "cnet-check" }, text("posePicture"), this.opacity),
                this.file,
            );
            const foot = element(
                "div",
                { class: "cnet-bar cnet-pose-foot" },
                element("p", { class: "cnet-pose-help" }, text("poseHelp")),
                this.said,
                button(text("cancel"), text("cancel"), () => this.dialog.close()),
                button(text("poseSend"), text("poseSend"), () => this.send(), {
                    class: "cnet-button cnet-primary",
                }),
            );
            const title = element("h2", {}, text("pose"));
            this.dialog = element(
                "dialog",
                {
                    ...{ class: "cnet-modal", "aria-label": text("pose"), tabindex: -1 },
                    onkeydown: (event) => this.key(event),
                },
                element("div", { class: "cnet-bar cnet-pose-head" }, title, bar),
                element("div", { class: "cnet-pose-main" }, this.stage.node, this.people.node),
                foot,
            );
        }

        side(label, name) {
            const { text } = controlstack.texts;
            return controlstack.dom.element("input", {
                ...{ type: "number", min: 1, class: "cnet-number", title: text(label), "aria-label": text(label) },
                onchange: (event) => {
                    const { width, height } = { ...this.history.now, [name]: Number(event.target.value) };
                    this.change(controlstack.pose.resized(this.history.now, width, height));
                    this.stage.fit();
                },
            });
        }

        /** Show the dialog with the unit's pose; without one, somebody stands on a canvas of the picture's size. */
        async open() {
            const source = controlstack.page.field(`${this.prefix}_pose_json`)?.value.trim() ?? "";
            this.address = controlstack.pictures.address(this.prefix);
            if (source !== this.source || !this.history) {
                this.source = source;
                this.begin(await this.first(source));
            }
            document.body.append(this.dialog);
            this.dialog.showModal();
            this.dialog.focus();
            this.behind();
            this.show();
            this.stage.fit();
        }

        async first(source) {
            const { parse, canvas, withPerson } = controlstack.pose;
            this.said.textContent = "";
            try {
                if (source) {
                    return parse(source);
                }
            } catch (error) {
                this.said.textContent = controlstack.texts.text("poseWrong", { why: error.message });
            }
            const { width, height } = (await controlstack.pictures.size(this.prefix)) ?? this.canvasSize();
            return withPerson(canvas(width, height));
        }

        /** The size of pictures that the tab makes. */
        canvasSize() {
            const tab = controlstack.page.tabOf(this.prefix);
            const side = (name) => {
                const number = controlstack.page.find(`${tab}_${name}`)?.querySelector("input[type=number]");
                return Number.parseInt(number?.value, 10) || SIDE;
            };
            return { width: side("width"), height: side("height") };
        }

        begin(pose) {
            this.history = new controlstack.History(pose);
            this.selected = pose.people.length ? { person: 0 } : null;
        }

        show() {
            const pose = this.history.now;
            this.width.value = pose.width;
            this.height.value = pose.height;
            this.undo.disabled = !this.history.canUndo;
            this.redo.disabled = !this.history.canRedo;
            this.stage.show(pose, this.selected);
            this.people.show(pose, this.selected);
        }

        behind() {
            this.opacity.disabled = !this.address;
            this.stage.behind(this.address, this.opacity.value);
        }

        select(ref) {
            const same = ["person", "part", "point"].every((key) => ref?.[key] === this.selected?.[key]);
            if (!same) {
                this.selected = ref;
                this.show();
            }
        }

        change(pose) {
            this.said.textContent = "";
            this.history.put(pose);
            this.keepSelection();
            this.show();
        }

        step(which) {
            this.history[which]();
            this.keepSelection();
            this.show();
        }

        /** A selection of what is gone gives way to the last person. */
        keepSelection() {
            const { people } = this.history.now;
            const { person, part, point } = this.selected ?? {};
            if (!people[person]) {
                this.selected = people.length ? { person: people.length - 1 } : null;
            } else if (part && !people[person][part][point]) {
                this.selected = { person };
            }
        }

        hide(ref) {
            this.change(controlstack.pose.hide(this.history.now, ref));
        }

        key(event) {
            event.stopPropagation(); // Escape would stop the host's job, Ctrl+Enter would start one
            if (event.target.matches("input:not([type=checkbox])")) {
                return;
            }
            const arrow = ARROWS[event.key];
            const held = event.ctrlKey || event.metaKey;
            const pointed = this.selected?.part !== undefined;
            if (held && event.key.toLowerCase() === "z") {
                this.step(event.shiftKey ? "redo" : "undo");
            } else if (held && event.key.toLowerCase() === "y") {
                this.step("redo");
            } else if (pointed && (event.key === "Delete" || event.key === "Backspace")) {
                this.hide(this.selected);
            } else if (pointed && arrow && !held) {
                const by = event.shiftKey ? 10 : 1; // px
                this.change(controlstack.pose.move(this.history.now, this.selected, arrow[0] * by, arrow[1] * by));
            } else if (!held && ZOOMS[event.key]) {
                this.stage.zoom(ZOOMS[event.key]);
            } else if (!held && event.key === "0") {
                this.stage.fit();
            } else {
                return;
            }
            event.preventDefault();
        }

        async load() {
            const [file] = this.file.files;
            this.file.value = "";
            try {
                const pose = controlstack.pose.parse(await file.text());
                this.selected = null;
                this.change(pose);
                this.stage.fit();
            } catch (error) {
                this.said.textContent = controlstack.texts.text("poseWrong", { why: error.message });
            }
        }

        save() {
            const json = new Blob([controlstack.pose.write(this.history.now)], { type: "application/json" });
            const address = URL.createObjectURL(json);
            controlstack.dom.element("a", { href: address, download: "pose.json" }).click();
            setTimeout(() => URL.revokeObjectURL(address), 60_000);
        }

        send() {
            const json = controlstack.pose.write(this.history.now);
            const line = controlstack.page.field(`${this.prefix}_pose_json`);
            controlstack.page.write(line, json);
            controlstack.page.press(`${this.prefix}_pose_render`);
            this.source = json;
            this.dialog.close();
        }
    }

    function group(...children) {
        return controlstack.dom.element("span", { class: "cnet-group" }, ...children);
    }

    function open(prefix) {
        if (!editors.has(prefix)) {
            editors.set(prefix, new PoseEditor(prefix));
        }
        return editors.get(prefix).open();
    }

    globalThis.document?.addEventListener("click", (event) => {
        const place = event.target.closest?.(`[id$="${EDIT}"]`);
        if (place) {
            open(place.id.slice(0, -EDIT.length));
        }
    });
})((globalThis.controlstack ??= {}));
