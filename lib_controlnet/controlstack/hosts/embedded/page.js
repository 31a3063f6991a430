// What A1111's page offers to the scripts of extensions, under its names.
"use strict";

const uiCallbacks = { loaded: [], update: [], afterUpdate: [], tabChange: [], optionsChanged: [] };

function gradioApp() {
  const app = document.querySelector("gradio-app");
  return (app && (app.shadowRoot || app)) || document;
}

function onUiLoaded(callback) {
  if (uiCallbacks.ready) callback();
  else uiCallbacks.loaded.push(callback);
}

function onUiUpdate(callback) {
  uiCallbacks.update.push(callback);
}

function onAfterUiUpdate(callback) {
  uiCallbacks.afterUpdate.push(callback);
}

function onUiTabChange(callback) {
  uiCallbacks.tabChange.push(callback);
}

function onOptionsChanged(callback) {
  uiCallbacks.optionsChanged.push(callback);
}

function get_uiCurrentTab() {
  return gradioApp().querySelector("#tabs button.selected, #tabs button[aria-selected=true]");
}

function get_uiCurrentTabContent() {
  return [...gradioApp().querySelectorAll("#tabs > [id^=tab_], #tabs > div > [id^=tab_]")].find(
    (tab) => tab.offsetParent !== null,
  );
}

/** Tell gradio that a field was changed by code. */
function updateInput(target) {
  target.dispatchEvent(new Event("input", { bubbles: true }));
}

/** Show one of the page's tabs by its title. */
function showTab(title) {
  const buttons = [...gradioApp().querySelectorAll("#tabs button")];
  const measured = "[aria-hidden=true], .visually-hidden"; // gradio's copies to measure widths with
  const wanted = buttons.find((button) => button.textContent.trim() === title && !button.closest(measured));
  if (wanted) wanted.click();
}

function runUiCallbacks(callbacks, ...args) {
  for (const callback of callbacks) {
    try {
      callback(...args);
    } catch (error) {
      console.error(error);
    }
  }
}

document.addEventListener("DOMContentLoaded", () => {
  let tab = null;
  let later = 0;
  new MutationObserver((mutations) => {
    if (!uiCallbacks.ready && gradioApp().querySelector("#txt2img_prompt")) {
      uiCallbacks.ready = true;
      runUiCallbacks(uiCallbacks.loaded);
    }
    runUiCallbacks(uiCallbacks.update, mutations);
    clearTimeout(later);
    later = setTimeout(() => runUiCallbacks(uiCallbacks.afterUpdate), 200);
    const current = get_uiCurrentTab();
    if (current && current !== tab) {
      tab = current;
      runUiCallbacks(uiCallbacks.tabChange);
    }
  }).observe(gradioApp(), { childList: true, subtree: true });
});
