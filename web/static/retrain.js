// @ts-check
// Training again with what was corrected: what it learns from, its progress, and what came out.

import { del, get, post } from "./api.js";
import { heard, isActive, watchJobs } from "./jobs.js";
import { METRICS } from "./metrics.js";
import {
  busy,
  button,
  confirmDialog,
  counted,
  element,
  notice,
  percent,
  progressBar,
  showError,
  span,
  toast,
} from "./ui.js";

/** @typedef {import("./jobs.js").Job} Job */

/**
 * The card with the button. `changed` is called when a training begins and ends.
 * @param {() => void} changed
 * @returns {{card: HTMLElement, stop: () => void}}
 */
export function retrainCard(changed) {
  /** @type {any} */
  let facts = null;
  /** @type {Job|null} */
  let job = null;
  let stopped = false;
  const about = element("div");
  const state = element("div", { class: "retrain-state" });
  const constants = element("textarea", {
    rows: 3,
    spellcheck: "false",
    placeholder: "EPOCHS = 4",
    "aria-label": "Constants, one a line",
  });
  const start = button("Retrain with corrections", () => void ask(), {
    class: "primary",
    icon: "refresh",
    disabled: true,
    data: { test: "retrain" },
  });
  const card = element(
    "section",
    { class: "card retrain", "aria-labelledby": "retrain-title" },
    element(
      "div",
      { class: "retrain-head" },
      element("div", {}, element("h2", { id: "retrain-title", text: "Retrain with corrections" }), about),
      start,
    ),
    element(
      "details",
      {},
      element("summary", { text: "Change constants of the training" }),
      element("p", { class: "muted", text: "One a line, as they stand at the top of the training script." }),
      constants,
    ),
    state,
  );

  const load = async () => {
    try {
      facts = await get("/api/retrain");
      if (stopped) return;
      if (facts.last && (!job || facts.last.created_at >= job.created_at)) job = facts.last;
      draw();
    } catch (error) {
      if (!stopped) showError(error);
    }
  };
  const draw = () => {
    const underway = job !== null && isActive(job);
    start.disabled = !facts?.can || underway;
    about.replaceChildren(...describe(facts));
    state.replaceChildren(...(job ? drawJob(job, facts) : []));
  };
  const ask = async () => {
    const chosen = readConstants(constants.value);
    if (chosen === null) return toast("Constants are lines such as EPOCHS = 4", "error");
    const agreed = await confirmDialog({
      title: "Retrain with corrections?",
      text: "It runs in the background; labelling waits for it where the machine is small. The model that is in use now stays until the new one is better.",
      yes: "Retrain",
    });
    if (!agreed) return;
    await busy(start, async () => {
      job = /** @type {Job} */ (
        await post("/api/retrain", Object.keys(chosen).length > 0 ? { constants: chosen } : {})
      );
      heard(job);
      changed();
    });
    draw();
  };
  const stopWatching = watchJobs((one) => {
    if (one.kind !== "retrain" || (job && one.id !== job.id && one.created_at < job.created_at)) return;
    const ended = job?.id === one.id && isActive(job) && !isActive(one);
    job = one;
    draw();
    if (ended) {
      changed();
      void load();
    }
  });
  void load();
  return {
    card,
    stop: () => {
      stopped = true;
      stopWatching();
    },
  };
}

/** @param {any} facts of /api/retrain @returns {Node[]} */
function describe(facts) {
  if (!facts) return [element("p", { class: "muted", text: "Looking at what there is to learn from…" })];
  const { demo } = facts.data;
  const classes = Object.entries(facts.data.classes).map(
    ([name, { recordings, groups }]) =>
      `${name}: ${counted(recordings, "recording")} in ${counted(groups, "group")}`,
  );
  const corrected = facts.corrected_recordings.length;
  return [
    element(
      "p",
      {},
      "Learns from ",
      corrected > 0 && element("strong", { text: counted(corrected, "corrected recording") }),
      corrected > 0 ? " and the clips in the data folder" : "the clips in the data folder",
      classes.length > 0 && `: ${classes.join(" · ")}.`,
    ),
    demo &&
      notice(
        "There are no clips of your own yet: it would train on the made demo set, which says nothing about real recordings.",
        "warning",
      ),
    !facts.can && facts.why && notice(facts.why, "warning"),
  ].filter(Boolean);
}

/** @param {Job} job @param {any} facts @returns {Node[]} */
function drawJob(job, facts) {
  if (isActive(job)) {
    const cancel = button(
      "Cancel",
      () => void busy(cancel, async () => heard(await del(`/api/jobs/${job.id}`))),
    );
    const left = job.eta_seconds === null ? "" : `${span(job.eta_seconds)} left`;
    const words =
      job.state === "queued"
        ? "waiting for its turn"
        : [job.progress === null ? "starting" : percent(job.progress), job.note, left]
            .filter(Boolean)
            .join(" · ");
    return [
      element(
        "div",
        { class: "retrain-now" },
        element(
          "div",
          {},
          element("p", { text: words }),
          progressBar(job.state === "queued" ? 0 : job.progress, "Progress of the training"),
        ),
        cancel,
      ),
    ];
  }
  if (job.state === "failed")
    return [notice(`The last training failed: ${job.error ?? "the log of the run says why"}`, "error")];
  if (job.state !== "done" || !job.result) return [];
  const { run, metrics, in_use: used } = job.result;
  const numbers = METRICS.filter(({ key }) => typeof metrics?.[key] === "number")
    .slice(0, 3)
    .map(({ key, title, words }) => `${title.toLowerCase()} ${words(metrics[key])}`);
  const again = button("Label again with the new model", () => void labelAgain(again, facts), {
    data: { test: "label-again" },
  });
  return [
    notice(
      `${run}: ${numbers.join(", ")}. ${used ? "It is in use now." : "The model before stays in use; promote this one below if you want it."}`,
      "info",
      ...(used ? [element("div", { class: "actions" }, again)] : []),
    ),
  ];
}

/** @param {HTMLButtonElement} control @param {any} facts */
async function labelAgain(control, facts) {
  const agreed = await confirmDialog({
    title: "Label with the new model?",
    text: `All recordings that it has not labelled yet, in the background. What you corrected in ${counted(facts?.corrected_recordings.length ?? 0, "recording")} stays as it is.`,
    yes: "Label again",
  });
  if (!agreed) return;
  await busy(control, async () => {
    const { jobs } = await post("/api/label", { recordings: "all_unlabelled" });
    jobs.forEach(heard);
    if (jobs.length === 0) toast("It has labelled all recordings already.");
    else toast(`${counted(jobs.length, "recording")} queued`, "info", { text: "Jobs", href: "#/jobs" });
  });
}

/** Constants of lines `NAME = value`; null where a line is something else. @param {string} text @returns {Record<string, any>|null} */
function readConstants(text) {
  /** @type {Record<string, any>} */
  const found = {};
  for (const line of text.split("\n").map((one) => one.trim())) {
    if (!line) continue;
    const match = /^([A-Z][A-Z0-9_]*)\s*[=:]\s*(.+)$/.exec(line);
    if (!match) return null;
    try {
      found[match[1]] = JSON.parse(match[2]);
    } catch {
      found[match[1]] = match[2];
    }
  }
  return found;
}
