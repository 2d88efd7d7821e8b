// @ts-check
// Kept history: what can be undone lasts as long as the tab, also when the page is loaded again.

import { areSame, begin } from "./edits.js";

/** @typedef {import("./edits.js").State} State */
/** @typedef {import("./edits.js").History} History */

/** @param {string} id */
const historyKey = (id) => `review-history-${id}`;

/** What was kept, if it leads to where the recording is now; else it begins there. @param {string} id @param {State} start @returns {History} */
export function readHistory(id, start) {
  try {
    const kept = JSON.parse(sessionStorage.getItem(historyKey(id)) ?? "null");
    const isSame = kept && kept.present.corrected === start.corrected && areSame(kept.present.segments, start.segments);
    if (isSame) return kept;
  } catch (error) {
    console.warn("what could be undone is lost", error);
  }
  return begin(start);
}

/** Keeps it; where there is no room for all of it, the latest half. @param {string} id @param {History} history */
export function writeHistory(id, history) {
  for (let { past, present, future } = history; ; past = past.slice(Math.ceil(past.length / 2)), future = future.slice(0, future.length >> 1)) {
    try {
      return sessionStorage.setItem(historyKey(id), JSON.stringify({ past, present, future }));
    } catch (error) {
      if (!past.length && !future.length) return; // no room, or none is allowed: only this page knows then
    }
  }
}
