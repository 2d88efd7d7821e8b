// @ts-check
// Keys of the review view: one table, from which both the listening and the help are made.

import { element, openDialog } from "./ui.js";

/**
 * @typedef {object} Key
 * @property {string} action what the view is asked to do
 * @property {number} [amount] for example seconds, or the number of a label
 * @property {string[]} shown as the help writes it
 * @property {string} about
 * @property {(event: KeyboardEvent) => boolean} matches
 */

/** @param {KeyboardEvent} event */
const isPlain = (event) => !event.ctrlKey && !event.metaKey && !event.altKey;
/** @param {KeyboardEvent} event */
const isCommand = (event) => (event.ctrlKey || event.metaKey) && !event.altKey;
/** With AltGr some layouts write [ and ], and say that Ctrl and Alt are down. @param {...string} keys */
const typed = (...keys) => (/** @type {KeyboardEvent} */ event) =>
  keys.includes(event.key) && (isPlain(event) || event.getModifierState("AltGraph"));
/** Shift and Alt change what , and . write: the place on the keyboard tells. @param {string} code @param {"shiftKey"|"altKey"} modifier */
const modified = (code, modifier) => (/** @type {KeyboardEvent} */ event) =>
  event.code === code && event[modifier] && !event.ctrlKey && !event.metaKey && event.shiftKey !== event.altKey;
/** @param {string} key @param {boolean} shift */
const command = (key, shift) => (/** @type {KeyboardEvent} */ event) =>
  isCommand(event) && event.key.toLowerCase() === key && event.shiftKey === shift;
/** Digits need Shift on some layouts, and the place of the key is the same. @param {number} digit */
const digit = (digit) => (/** @type {KeyboardEvent} */ event) =>
  isPlain(event) && (event.key === String(digit) || event.code === `Digit${digit}`) && event.key !== "?";

/** @type {Record<string, Key[]>} */
export const KEYS = {
  "Play and look": [
    { action: "play", shown: ["Space"], about: "play, pause", matches: typed(" ") },
    { action: "skip", amount: -5, shown: ["j"], about: "5 s back", matches: typed("j", "J") },
    { action: "skip", amount: 5, shown: ["l"], about: "5 s on", matches: typed("l", "L") },
    { action: "step", amount: -1, shown: ["←"], about: "a frame back", matches: typed("ArrowLeft") },
    { action: "step", amount: 1, shown: ["→"], about: "a frame on", matches: typed("ArrowRight") },
    { action: "goto", amount: 0, shown: ["Home"], about: "beginning", matches: typed("Home") },
    { action: "goto", amount: 1, shown: ["End"], about: "end", matches: typed("End") },
    { action: "edge", amount: -1, shown: ["["], about: "edge before", matches: typed("[") },
    { action: "edge", amount: 1, shown: ["]"], about: "next edge", matches: typed("]") },
    { action: "unsure", shown: ["u"], about: "next segment that the model is unsure of", matches: typed("u", "U") },
    { action: "zoom", amount: 2, shown: ["+"], about: "closer", matches: typed("+", "=") },
    { action: "zoom", amount: 0.5, shown: ["-"], about: "further away", matches: typed("-", "_") },
    { action: "fit", shown: ["f"], about: "all of the recording", matches: typed("f", "F") },
  ],
  "Correct": [
    { action: "nudge", amount: -0.1, shown: ["Shift", ","], about: "edge 0.1 s back", matches: modified("Comma", "shiftKey") },
    { action: "nudge", amount: 0.1, shown: ["Shift", "."], about: "edge 0.1 s on", matches: modified("Period", "shiftKey") },
    { action: "nudge", amount: -1, shown: ["Alt", ","], about: "edge 1 s back", matches: modified("Comma", "altKey") },
    { action: "nudge", amount: 1, shown: ["Alt", "."], about: "edge 1 s on", matches: modified("Period", "altKey") },
    { action: "nudgeFrame", amount: -1, shown: [","], about: "edge a frame back", matches: typed(",") },
    { action: "nudgeFrame", amount: 1, shown: ["."], about: "edge a frame on", matches: typed(".") },
    { action: "edgeHere", shown: ["e"], about: "nearest edge to the playhead", matches: typed("e", "E") },
    { action: "split", shown: ["s"], about: "split at the playhead", matches: typed("s", "S") },
    { action: "merge", shown: ["m"], about: "merge with the next segment", matches: typed("m", "M") },
    ...[1, 2, 3, 4, 5, 6, 7, 8, 9].map((n) => ({
      action: "label", amount: n, shown: [String(n)], about: `label number ${n}`, matches: digit(n),
    })),
    { action: "label", amount: 0, shown: ["0"], about: "none of the labels", matches: digit(0) },
    { action: "undo", shown: ["Ctrl", "z"], about: "undo", matches: command("z", false) },
    { action: "redo", shown: ["Ctrl", "Shift", "z"], about: "redo (or Ctrl y)", matches: command("z", true) },
    { action: "redo", shown: [], about: "", matches: command("y", false) },
    { action: "saveNow", shown: ["Ctrl", "s"], about: "save at once", matches: command("s", false) },
    { action: "accept", shown: ["a"], about: "accept: all of it is right", matches: typed("a", "A") },
  ],
  "Ranges and more": [
    { action: "rangeStart", shown: ["i"], about: "a range begins here", matches: typed("i", "I") },
    { action: "rangeEnd", shown: ["o"], about: "a range ends here", matches: typed("o", "O") },
    { action: "clear", shown: ["Esc"], about: "forget the range", matches: typed("Escape") },
    { action: "next", shown: ["n"], about: "next recording in the queue", matches: typed("n", "N") },
    { action: "help", shown: ["?"], about: "this list", matches: typed("?") },
  ],
};
const ALL = Object.values(KEYS).flat();
const TAKES_TEXT = "input, textarea, select, [contenteditable]";
const PRESSED_BY_SPACE = "button, a, summary, [role=button], [role=menuitem]";
const STEPPED = "[role=slider]"; // which arrows move by themselves

/**
 * The key that an event means, null for none, or for what a field or a button has for itself.
 * @param {KeyboardEvent} event @returns {Key|null}
 */
export function keyOf(event) {
  const target = event.target instanceof Element ? event.target : null;
  if (event.isComposing || event.defaultPrevented || document.querySelector("dialog[open]")) return null;
  if (target?.closest(TAKES_TEXT)) return null;
  if (event.key === " " && target?.closest(PRESSED_BY_SPACE)) return null;
  if (event.key.startsWith("Arrow") && target?.closest(STEPPED)) return null;
  return ALL.find((key) => key.matches(event)) ?? null;
}

/**
 * Shows all keys. @param {readonly string[]} labels what 1, 2, ... stand for
 */
export function showHelp(labels) {
  const sections = Object.entries(KEYS).map(([title, keys]) =>
    element(
      "section",
      {},
      element("h3", { text: title }),
      element("dl", { class: "keys" }, ...keys.flatMap((key) => rows(key, labels))),
    ),
  );
  const mouse = element("p", {
    class: "muted",
    text:
      "On the strip: click to go there, drag to move along, Shift and drag to mark a range, wheel or pinch to zoom, " +
      "double click to zoom in on a segment. Edges snap to shot cuts and to the playhead; hold Alt to have them anywhere. " +
      "An edge in focus moves with the arrow keys by a frame, with Page Up and Page Down by a second.",
  });
  const dialog = openDialog("Keys", [element("div", { class: "key-columns" }, ...sections), mouse]);
  const close = element("button", { type: "button", class: "button primary", text: "Close", autofocus: true, on: { click: () => dialog.close() } });
  dialog.append(element("div", { class: "actions end" }, close));
  dialog.classList.add("wide");
  close.focus();
}

/** @param {Key} key @param {readonly string[]} labels */
function rows({ action, amount, shown, about }, labels) {
  const number = action === "label" ? Number(amount) : 0;
  if (!shown.length || number > labels.length) return [];
  const text = number ? `label: ${labels[number - 1]}` : about;
  return [
    element("div", {}, element("dt", {}, ...shown.map((key) => element("kbd", { text: key }))), element("dd", { text })),
  ];
}
