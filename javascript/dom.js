/** Elements, HTML's and SVG's, made in one expression. */
(function (controlstack) {
    "use strict";

    const SVG = "http://www.w3.org/2000/svg";

    /** `element("button", {class: "a", onclick: f}, "text", child)`; a function becomes a listener. */
    function element(name, attributes = {}, ...children) {
        return fill(document.createElement(name), attributes, children);
    }

    function svg(name, attributes = {}, ...children) {
        return fill(document.createElementNS(SVG, name), attributes, children);
    }

    function fill(made, attributes, children) {
        for (const [key, value] of Object.entries(attributes)) {
            if (typeof value === "function") {
                made.addEventListener(key.replace(/^on/, ""), value);
            } else if (value === true) {
                made.setAttribute(key, "");
            } else if (value !== false && value !== null && value !== undefined) {
                made.setAttribute(key, value);
            }
        }
        made.append(...children.filter((child) => child !== null && child !== undefined));
        return made;
    }

    /** A button of ours, with a word or a sign on it and a sentence as its title. */
    function button(label, title, act, attributes = {}) {
        return element("button", { type: "button", class: "cnet-button", title, onclick: act, ...attributes }, label);
    }

    /** A button with a drawing on it; the style sheet hides its words, and draws. */
    function icon(name, title, act) {
        return button(title, title, act, { class: `cnet-button cnet-icon cnet-icon-${name}` });
    }

    controlstack.dom = { element, svg, button, icon };
})((globalThis.controlstack ??= {}));
