/** The list of people beside a pose: who is selected, which hands and faces there are, which points are hidden. */
(function (controlstack) {
    "use strict";

    class PosePeople {
        /** `hear` has `select({person})` and `change(pose)`. */
        constructor(hear) {
            this.hear = hear;
            this.node = controlstack.dom.element("div", { class: "cnet-pose-people" });
        }

        show(pose, selected) {
            const { element, button } = controlstack.dom;
            const { text } = controlstack.texts;
            const focused = this.node.contains(document.activeElement) ? document.activeElement.dataset.key : null;
            const add = button(`+ ${text("poseAddPerson")}`, text("poseAddPerson"), () => this.add(pose), {
                "data-key": "add",
            });
            const animals = pose.animals.length ? text("poseAnimals", { n: pose.animals.length }) : null;
            this.node.replaceChildren(
                ...pose.people.map((person, nth) => this.card(pose, person, nth, nth === selected?.person)),
                ...(pose.people.length ? [] : [element("p", {}, text("poseEmpty"))]),
                add,
                ...(animals ? [element("p", {}, animals)] : []),
            );
            if (focused) {
                this.node.querySelector(`[data-key="${focused}"]`)?.focus();
            }
        }

        add(pose) {
            const more = controlstack.pose.withPerson(pose);
            this.hear.change(more);
            this.hear.select({ person: more.people.length - 1 });
        }

        card(pose, person, nth, open) {
            const { element, button } = controlstack.dom;
            const { text } = controlstack.texts;
            const head = element(
                "div",
                { class: "cnet-bar" },
                button(text("posePerson", { n: nth + 1 }), text("posePerson", { n: nth + 1 }), () => this.open(nth), {
                    class: "cnet-button cnet-pose-name",
                    "aria-expanded": String(open),
                    "data-key": `person-${nth}`,
                }),
                button("×", text("poseRemovePerson"), () => this.remove(pose, nth), { "data-key": `remove-${nth}` }),
            );
            const inside = open ? [this.parts(pose, person, nth), this.points(pose, person, nth)] : [];
            return element("div", { class: open ? "cnet-pose-card cnet-selected" : "cnet-pose-card" }, head, ...inside);
        }

        open(nth) {
            this.hear.select({ person: nth });
        }

        remove(pose, nth) {
            this.hear.change(controlstack.pose.withoutPerson(pose, nth));
        }

        /** Hands come and go; a face is shown or hidden. */
        parts(pose, person, nth) {
            const { text } = controlstack.texts;
            const { withHand, withoutHand, shown } = controlstack.pose;
            const hand = (side, label) =>
                this.check(text(label), seen(person[side]), `${side}-${nth}`, (on) =>
                    on ? withHand(pose, nth, side) : withoutHand(pose, nth, side),
                );
            const face = this.check(
                text("poseFace"),
                seen(person.face),
                `face-${nth}`,
                (on) => shown(pose, nth, "face", on),
                !person.face.length,
            );
            return controlstack.dom.element(
                "div",
                { class: "cnet-bar" },
                hand("left", "poseLeftHand"),
                hand("right", "poseRightHand"),
                face,
            );
        }

        check(label, checked, key, act, disabled = false) {
            const { element } = controlstack.dom;
            const box = element("input", {
                ...{ type: "checkbox", checked, disabled, "data-key": key },
                onchange: () => this.hear.change(act(box.checked)),
            });
            return element("label", { class: "cnet-check" }, box, label);
        }

        /** One button a body point, pressed while the point is shown. */
        points(pose, person, nth) {
            const { element, button } = controlstack.dom;
            const { hide, unhide } = controlstack.pose;
            const one = ([, , confidence], point) => {
                const shown = confidence > 0;
                const ref = { person: nth, part: "body", point };
                const act = () => this.hear.change(shown ? hide(pose, ref) : unhide(pose, ref));
                const name = controlstack.texts.joint(point);
                return button(name, name, act, {
                    class: "cnet-chip",
                    "aria-pressed": String(shown),
                    "data-key": `point-${nth}-${point}`,
                    style: `--cnet-joint: ${controlstack.figure.jointColour(point)}`,
                });
            };
            return element("div", { class: "cnet-chips" }, ...person.body.map(one));
        }
    }

    function seen(part) {
        return part.some((point) => point[2] > 0);
    }

    controlstack.PosePeople = PosePeople;
})((globalThis.controlstack ??= {}));
