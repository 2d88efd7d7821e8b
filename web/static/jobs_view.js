// @ts-check
// View of the background jobs: what runs, what waits, how the others ended.

import { del } from "./api.js";
import { heard, isActive, knownJobs, watchJobs } from "./jobs.js";
import {
  busy,
  button,
  counted,
  date,
  element,
  emptyState,
  percent,
  progressBar,
  span,
  viewHeader,
} from "./ui.js";

/** @typedef {import("./jobs.js").Job} Job */

const SHOWN = 200;
/** @type {Record<string, [string, string]>} */
const STATES = {
  queued: ["Waiting", ""],
  running: ["Running", "info"],
  done: ["Done", "good"],
  failed: ["Failed", "bad"],
  cancelled: ["Cancelled", ""],
  interrupted: ["Interrupted", "unsure"],
};

/** @param {HTMLElement} root @returns {() => void} */
export function show(root) {
  const cancelAll = button("Cancel all that wait", () => void busy(cancelAll, dropQueued), { hidden: true });
  const header = viewHeader("Jobs", "", cancelAll);
  const lead = /** @type {HTMLElement} */ (header.querySelector(".lead"));
  const list = element("ul", { class: "job-list" });
  const none = element("div");
  root.append(header, list, none);
  /** @type {Map<string, {state: string, entry: HTMLElement, update: (job: Job) => void}>} */
  const entries = new Map();

  const draw = () => {
    const jobs = knownJobs();
    const order = [
      ...jobs.filter((job) => job.state === "running"),
      ...jobs.filter((job) => job.state === "queued").reverse(),
      ...jobs.filter((job) => !isActive(job)),
    ].slice(0, SHOWN);
    order.forEach((job, index) => {
      let shown = entries.get(job.id);
      if (shown?.state !== job.state) {
        shown?.entry.remove();
        shown = drawJob(job);
        entries.set(job.id, shown);
      }
      shown.update(job);
      if (list.children[index] !== shown.entry) list.insertBefore(shown.entry, list.children[index] ?? null);
    });
    const waiting = jobs.filter((job) => job.state === "queued").length;
    const running = jobs.filter((job) => job.state === "running").length;
    lead.textContent =
      running + waiting > 0 ? `${running} running, ${waiting} waiting` : "Nothing is running.";
    cancelAll.hidden = waiting < 2;
    none.replaceChildren(
      ...(jobs.length > 0
        ? []
        : [
            emptyState(
              "refresh",
              "No jobs yet",
              "Labelling, training, indexing and light copies for the player run here in the background.",
            ),
          ]),
    );
  };
  let asked = 0;
  const stop = watchJobs(() => {
    cancelAnimationFrame(asked);
    asked = requestAnimationFrame(draw);
  });
  draw();
  return () => {
    stop();
    cancelAnimationFrame(asked);
  };
}

/** @param {Job} first */
function drawJob(first) {
  const [title, kind] = STATES[first.state];
  const words = element("small", { class: "muted" });
  const bar = isActive(first) && progressBar(0, `Progress: ${first.title}`);
  const cancel =
    isActive(first) &&
    button(
      "Cancel",
      () => void busy(/** @type {any} */ (cancel), async () => heard(await del(`/api/jobs/${first.id}`))),
      { "aria-label": `Cancel: ${first.title}`, data: { test: "cancel-job" } },
    );
  const entry = element(
    "li",
    { class: "card job", data: { test: "job", job: first.id, state: first.state } },
    element(
      "div",
      { class: "job-what" },
      element("span", { class: "title", text: first.title }),
      element("span", { class: `badge ${kind}`, text: title }),
    ),
    bar,
    words,
    first.error && element("p", { class: "problem", text: first.error }),
    element("div", { class: "actions" }, cancel, ...links(first)),
  );
  const update = (/** @type {Job} */ job) => {
    if (bar && job.state === "running" && job.progress !== null) bar.value = job.progress;
    else if (bar && job.state === "running") bar.removeAttribute("value");
    words.textContent = describe(job);
  };
  return { state: first.state, entry, update };
}

/** @param {Job} job */
function describe(job) {
  if (job.state === "queued") return `since ${date(job.created_at)}`;
  if (job.state === "running") {
    const left = job.eta_seconds !== null && `${span(job.eta_seconds)} left`;
    return [job.progress !== null && percent(job.progress), job.note, left].filter(Boolean).join(" · ");
  }
  const seconds =
    job.started_at && job.ended_at ? (Date.parse(job.ended_at) - Date.parse(job.started_at)) / 1000 : null;
  return [job.ended_at && date(job.ended_at), seconds !== null && `took ${span(seconds)}`, outcome(job)]
    .filter(Boolean)
    .join(" · ");
}

/** What came of it, in words. @param {Job} job */
function outcome({ kind, result }) {
  if (kind === "label" && result?.breaks !== undefined)
    return `${counted(result.breaks, "break")}, ${span(result.ads_seconds)} of ads`;
  if (kind === "index" && result?.clips !== undefined) {
    const refused = result.rejected?.length
      ? `, ${counted(result.rejected.length, "recording")} could not be read`
      : "";
    return `${counted(result.clips, "clip")} in the index${refused}`;
  }
  return kind === "retrain" && result?.run ? result.run : "";
}

/** @param {Job} job @returns {Node[]} */
function links(job) {
  if (job.state !== "done") return [];
  if (job.kind === "retrain") return [element("a", { class: "button", href: "#/runs", text: "See the run" })];
  return job.recording
    ? [element("a", { class: "button", href: `#/review/${job.recording}`, text: "Review" })]
    : [];
}

async function dropQueued() {
  const waiting = knownJobs().filter((job) => job.state === "queued");
  for (const job of waiting) heard(await del(`/api/jobs/${job.id}`));
}
