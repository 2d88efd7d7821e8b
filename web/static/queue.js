// @ts-check
// View of what to review first: the places where a correction is expected to fix the most.

import { get, watchConnection } from "./api.js";
import {
  clock,
  element,
  emptyState,
  failedState,
  labelMark,
  lazyImage,
  meter,
  percent,
  showError,
  span,
  thumbnailAddress,
  viewHeader,
} from "./ui.js";

const SHOWN = 50;
const BEGAN = "queue-began-seconds"; // in sessionStorage: what was expected to be wrong at first

/**
 * @typedef {object} Item
 * @property {string} recording
 * @property {string} name
 * @property {number} start_seconds
 * @property {number} end_seconds
 * @property {string} label
 * @property {number} confidence
 * @property {number} expected_wrong_seconds
 */

/** @param {HTMLElement} root @returns {() => void} */
export function show(root) {
  const stop = new AbortController();
  const header = viewHeader("Review queue", "");
  const lead = /** @type {HTMLElement} */ (header.querySelector(".lead"));
  const progress = element("div", { class: "queue-progress", role: "status" });
  const list = element("ol", { class: "queue-list" });
  const none = element("div", {}, element("p", { class: "loading", text: "Loading…" }));
  root.append(header, progress, list, none);

  const load = async () => {
    try {
      const answer = await get(`/api/queue?limit=${SHOWN}`, { signal: stop.signal });
      list.replaceChildren(...answer.items.map(drawItem));
      lead.textContent =
        answer.items.length > 0
          ? "Where the model is least sure, with what a look at it is expected to fix. Press n while reviewing for the next one."
          : "";
      progress.replaceChildren(...drawProgress(answer.total_expected_wrong_seconds));
      none.replaceChildren(...(answer.items.length > 0 ? [] : [nothing()]));
    } catch (error) {
      if (stop.signal.aborted) return;
      if (list.childElementCount > 0) showError(error);
      else none.replaceChildren(failedState(error, () => void load()));
    }
  };
  void load();
  const stopWatching = watchConnection((now) => now === "up" && void load());
  return () => {
    stop.abort();
    stopWatching();
  };
}

/** @param {Item} item @returns {HTMLElement} */
function drawItem(item) {
  const length = item.end_seconds - item.start_seconds;
  const name = item.name.slice(item.name.lastIndexOf("/") + 1);
  return element(
    "li",
    { data: { test: "queue-item" } },
    element(
      "a",
      { class: "queue-item", href: `#/review/${item.recording}?t=${item.start_seconds.toFixed(2)}` },
      lazyImage(thumbnailAddress(item.recording, (item.start_seconds + item.end_seconds) / 2, 120)),
      element(
        "span",
        { class: "queue-what" },
        element("strong", { text: `${clock(item.start_seconds)} – ${clock(item.end_seconds)}` }),
        element("span", { class: "name", text: name }),
        element(
          "span",
          { class: "muted" },
          labelMark(item.label),
          ` ${percent(item.confidence)} sure, ${span(length)}`,
        ),
      ),
      element(
        "span",
        { class: "queue-gain" },
        element("strong", { text: span(item.expected_wrong_seconds) }),
        element("small", { text: "to fix" }),
      ),
    ),
  );
}

/** What was fixed since the tab was opened, of what there was. @param {number} left seconds @returns {Node[]} */
function drawProgress(left) {
  const began = Math.max(left, Number(sessionStorage.getItem(BEGAN)) || 0);
  sessionStorage.setItem(BEGAN, String(began));
  if (began === 0) return [];
  const minutes = (/** @type {number} */ seconds) => Math.round(seconds / 60);
  const isPlain = began >= 600 && began < 7200; // one unit is right for both
  const words = isPlain
    ? `${minutes(began - left)} of ${minutes(began)} min`
    : `${span(began - left)} of ${span(began)}`;
  return [
    element(
      "p",
      {},
      element("strong", { text: words }),
      element("span", { class: "muted", text: " of what is likely wrong was looked at" }),
    ),
    meter((began - left) / began, `${words} looked at`, "--good"),
  ];
}

function nothing() {
  const link = element("a", {
    class: "button primary",
    href: "#/recordings?state=not_labelled",
    text: "Recordings to label",
  });
  return emptyState(
    "check",
    "Nothing to review",
    "No labelled recording has a place that is likely wrong. Label more recordings: what is worth a look turns up here.",
    link,
  );
}
