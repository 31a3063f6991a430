/** What was done, to undo it and do it again: states that never change, one of which is now. */
(function (controlstack) {
    "use strict";

    const MOST = 200;

    class History {
        constructor(first) {
            this.states = [first];
            this.place = 0;
        }

        get now() {
            return this.states[this.place];
        }

        /** The next state; what was undone before is forgotten. */
        put(state) {
            if (state !== this.now) {
                this.states = [...this.states.slice(0, this.place + 1), state].slice(-MOST);
                this.place = this.states.length - 1;
            }
        }

        undo() {
            this.place = Math.max(this.place - 1, 0);
            return this.now;
        }

        redo() {
            this.place = Math.min(this.place + 1, this.states.length - 1);
            return this.now;
        }

        get canUndo() {
            return this.place > 0;
        }

        get canRedo() {
            return this.place < this.states.length - 1;
        }
    }

    controlstack.History = History;
})((globalThis.controlstack ??= {}));
