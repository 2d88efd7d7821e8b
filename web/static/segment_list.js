// @ts-check
// Segment list: all segments as rows to go to, for who reads rather than looks.

import { clock, element, labelMark, percent, span } from "./ui.js";

/** @typedef {import("./edits.js").Segment} Segment */
/** @typedef {{item: HTMLElement, control: HTMLElement, segment: Segment}} Row */

/** @param {(segment: Segment) => void} onGo */
export function makeSegmentList(onGo) {
  const list = element("ol", { class: "segment-list", data: { test: "segment-list" }, "aria-label": "Segments" });
  /** @type {Row[]} */
  const rows = [];
  let current = -1;

  /** @param {Row} row @param {Segment} segment */
  function fill(row, segment) {
    row.segment = segment;
    const { start_seconds: start, end_seconds: end, label, confidence, unsure } = segment;
    Object.assign(row.item.dataset, { start: String(start), end: String(end), label: label ?? "" });
    const sure = confidence == null ? "" : percent(confidence);
    row.control.replaceChildren(
      label === null ? element("span", { class: "label-mark none", text: "no label" }) : labelMark(label),
      element("span", { class: "times", text: `${clock(start, 1)} – ${clock(end, 1)}` }),
      element("span", { class: "length", text: span(end - start) }),
      unsure ? element("span", { class: "badge unsure", text: `unsure ${sure}` }) : element("span", { class: "sure", text: sure }),
    );
  }

  /** @param {Segment} segment @returns {Row} */
  function makeRow(segment) {
    const control = element("button", { type: "button" });
    const item = element("li", {}, control);
    const row = { item, control, segment };
    control.addEventListener("click", () => onGo(row.segment));
    fill(row, segment);
    return row;
  }

  return {
    element: list,
    /** Rows of segments that are the same objects as before stay as they are. @param {readonly Segment[]} segments */
    set(segments) {
      segments.forEach((segment, k) => {
        if (!rows[k]) list.append((rows[k] = makeRow(segment)).item);
        else if (rows[k].segment !== segment) fill(rows[k], segment);
      });
      for (const row of rows.splice(segments.length)) row.item.remove();
    },
    /** @param {number} index */
    setCurrent(index) {
      if (index === current && rows[index]?.control.hasAttribute("aria-current")) return;
      rows[current]?.control.removeAttribute("aria-current");
      current = index;
      const row = rows[index];
      if (!row) return;
      row.control.setAttribute("aria-current", "true");
      // Not scrollIntoView, which moves the page too.
      const [top, bottom] = [row.item.offsetTop - list.offsetTop, row.item.offsetTop - list.offsetTop + row.item.offsetHeight];
      if (top < list.scrollTop) list.scrollTop = top;
      else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
    },
  };
}
