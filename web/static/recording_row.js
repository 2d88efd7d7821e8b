// @ts-check
// One recording in the list: what is known about it, and what can be done with it.

import { del, post } from "./api.js";
import { heard, isActive } from "./jobs.js";
import {
  busy,
  button,
  bytes,
  clock,
  counted,
  element,
  labelMark,
  lazyImage,
  meter,
  percent,
  progressBar,
  span,
  thumbnailAddress,
} from "./ui.js";

/**
 * @typedef {object} Recording
 * @property {string} id
 * @property {string} name path in its folder
 * @property {string} folder
 * @property {number} size_bytes
 * @property {number} modified
 * @property {number|null} duration_seconds
 * @property {"not_labelled"|"labelled"|"corrected"|"training_clip"} state
 * @property {string|null} label of a training clip
 * @property {number|null} ads_share 0 to 1
 * @property {number|null} breaks
 * @property {number|null} unsure segments
 * @property {number|null} expected_wrong_seconds
 * @property {boolean} outdated labelled, but by an older model
 * @property {boolean} editable
 * @property {string|null} error
 */
/** @typedef {import("./jobs.js").Job} Job */

/** @type {Record<string, {title: string, badge: string}>} */
export const STATES = {
  not_labelled: { title: "Not labelled", badge: "" },
  labelled: { title: "Labelled", badge: "info" },
  corrected: { title: "Corrected", badge: "good" },
  training_clip: { title: "Training clip", badge: "" },
};
const WORTH_A_LOOK_SECONDS = 30; // this much that is likely wrong stands out

/** @typedef {ReturnType<typeof makeRow>} Row */

/** A row whose element is made when it is first asked for. @param {Recording} recording @param {Job|null} job */
export function makeRow(recording, job) {
  /** @type {HTMLElement|null} */
  let made = null;
  /** @type {HTMLElement} */
  let action;
  const row = {
    recording,
    element: () => (made ??= draw()),
    /** @param {Recording} now */
    update(now) {
      if (JSON.stringify(now) === JSON.stringify(row.recording)) return;
      row.recording = now;
      const old = made;
      if (old) old.replaceWith((made = draw()));
    },
    /** @param {Job} now */
    setJob(now) {
      job = now;
      if (made) action.replaceChildren(...act(row.recording, job));
    },
    canLabel: () => row.recording.state === "not_labelled" && !row.recording.error && !(job && isActive(job)),
  };
  const draw = () => {
    action = element("div", { role: "cell", class: "cell act" }, ...act(row.recording, job));
    return element(
      "div",
      { role: "row", class: "row", data: { test: "recording-row", recording: row.recording.id } },
      ...facts(row.recording),
      action,
    );
  };
  return row;
}

/** @param {Recording} r @returns {Node[]} the cells before the actions */
function facts(r) {
  const at = r.name.lastIndexOf("/");
  const href = `#/review/${r.id}`;
  const place = [r.folder, r.name.slice(0, Math.max(0, at))].filter(Boolean).join("/");
  const seconds = (r.duration_seconds ?? 9) / 3; // past the black of the beginning
  const cell = (/** @type {string} */ kind, /** @type {...any} */ ...content) =>
    element("div", { role: "cell", class: `cell ${kind}` }, ...content);
  return [
    cell(
      "name",
      element(
        "a",
        { class: "picture", href, tabindex: -1, "aria-hidden": "true" },
        r.error
          ? element("span", { class: "thumbnail missing" })
          : lazyImage(thumbnailAddress(r.id, seconds)),
      ),
      element(
        "div",
        {},
        element("a", { class: "title", href, text: r.name.slice(at + 1) }),
        element("small", {
          class: r.error ? "problem" : "muted",
          text: r.error ?? `${place} · ${bytes(r.size_bytes)}`,
        }),
      ),
    ),
    cell(
      "state",
      r.label && r.state === "training_clip"
        ? labelMark(r.label, " clip")
        : stateBadge(r),
    ),
    cell("length", r.duration_seconds === null ? "" : clock(r.duration_seconds)),
    cell(
      "ads",
      r.ads_share !== null && meter(r.ads_share, `${percent(r.ads_share)} ads`, "--ads"),
      r.ads_share !== null &&
        element("small", { text: `${percent(r.ads_share)} ads · ${counted(r.breaks ?? 0, "break")}` }),
    ),
    cell("unsure", r.unsure ? element("span", { class: "badge unsure", text: `${r.unsure} unsure` }) : ""),
    cell("wrong", r.expected_wrong_seconds ? wrongWords(r.expected_wrong_seconds) : ""),
  ];
}

/** @param {number} seconds */
function wrongWords(seconds) {
  const much = seconds >= WORTH_A_LOOK_SECONDS;
  return element(
    "span",
    { class: much ? "much" : "muted", text: `≈ ${span(seconds)}` },
    element("span", { class: "narrow-only", text: " likely wrong" }),
  );
}

/** @param {Recording} r @param {Job|null} job @returns {Node[]} */
function act(r, job) {
  const name = r.name.slice(r.name.lastIndexOf("/") + 1);
  if (job && isActive(job)) {
    const words =
      job.state === "queued" ? "waiting" : job.progress === null ? "starting" : percent(job.progress);
    const cancel = button("", () => void busy(cancel, async () => heard(await del(`/api/jobs/${job.id}`))), {
      icon: "close",
      class: "quiet square",
      "aria-label": `Cancel: ${job.title}`,
    });
    return [
      element(
        "div",
        { class: "underway" },
        element("small", { text: words }),
        progressBar(job.state === "queued" ? 0 : job.progress, `Labelling ${name}`),
      ),
      cancel,
    ];
  }
  if (r.error || r.state === "training_clip") return [];
  if (r.state !== "not_labelled")
    return [
      element("a", {
        class: "button",
        href: `#/review/${r.id}`,
        "aria-label": `Review ${name}`,
        text: "Review",
      }),
    ];
  const label = button(
    "Label",
    () => void busy(label, async () => heard(await post(`/api/recordings/${r.id}/label`))),
    { icon: "label", "aria-label": `Label ${name}`, data: { test: "label-button" } },
  );
  return job?.state === "failed"
    ? [element("small", { class: "problem", text: job.error ?? "failed" }), label]
    : [label];
}

/** @param {Recording} r @returns {HTMLElement} */
function stateBadge(r) {
  if (r.outdated && r.state === "not_labelled") {
    return element("span", {
      class: "badge unsure",
      text: "Labelled by an older model",
      title: "Label it again, and it is as the model in use says",
    });
  }
  return element("span", { class: `badge ${STATES[r.state].badge}`, text: STATES[r.state].title });
}
