// @ts-check
// View of the trainings: compared side by side, the one in use, and training again with corrections.

import { get, post, watchConnection } from "./api.js";
import { METRICS } from "./metrics.js";
import { retrainCard } from "./retrain.js";
import {
  busy,
  button,
  clock,
  confirmDialog,
  date,
  element,
  emptyState,
  failedState,
  progressBar,
  showError,
  toast,
  viewHeader,
} from "./ui.js";

const SHOWN = 12;
const REFRESH_MS = 4000; // while a run is under way

/**
 * @typedef {object} Run
 * @property {string} name
 * @property {string} script
 * @property {"running"|"finished"|"failed"|"interrupted"} state
 * @property {string} reason
 * @property {number} epoch
 * @property {number|null} epochs
 * @property {string} phase
 * @property {string} best
 * @property {string|null} started_at
 * @property {number|null} eta_seconds
 * @property {Record<string, any>|null} metrics
 * @property {boolean} has_report
 * @property {boolean} can_promote it ended well
 * @property {string|null} version
 * @property {boolean} in_use
 */

/** @type {Record<string, [string, string]>} */
const STATES = {
  running: ["Running", "info"],
  finished: ["Finished", ""],
  failed: ["Failed", "bad"],
  interrupted: ["Stopped", "unsure"],
};

/** @param {HTMLElement} root @returns {() => void} */
export function show(root) {
  let all = false;
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  let timer;
  let stopped = false;
  const header = viewHeader("Runs", "");
  const lead = /** @type {HTMLElement} */ (header.querySelector(".lead"));
  const table = element("div", {}, element("p", { class: "loading", text: "Loading…" }));
  const past = element("div");

  const load = async () => {
    clearTimeout(timer);
    try {
      const answer = await get("/api/runs");
      if (stopped) return;
      lead.textContent = inUseWords(answer);
      const focused =
        document.activeElement instanceof HTMLElement && table.contains(document.activeElement)
          ? document.activeElement.dataset.key
          : "";
      table.replaceChildren(
        answer.runs.length > 0 ? drawTable(answer, all, load, () => ((all = true), void load())) : nothing(),
      );
      past.replaceChildren(...drawHistory(answer, load));
      if (focused)
        /** @type {HTMLElement|null} */ (root.querySelector(`[data-key="${CSS.escape(focused)}"]`))?.focus();
      if (answer.runs.some((/** @type {Run} */ run) => run.state === "running"))
        timer = setTimeout(load, REFRESH_MS);
    } catch (error) {
      if (stopped) return;
      if (table.querySelector(".runs-card")) showError(error);
      else table.replaceChildren(failedState(error, () => void load()));
    }
  };
  const retraining = retrainCard(load);
  root.append(header, retraining.card, table, past);
  void load();
  const stopWatching = watchConnection((now) => now === "up" && void load());
  return () => {
    stopped = true;
    clearTimeout(timer);
    stopWatching();
    retraining.stop();
  };
}

/** @param {any} answer */
function inUseWords(answer) {
  const used = answer.runs.find((/** @type {Run} */ run) => run.in_use);
  if (!used) return answer.runs.length > 0 ? "No run is in use." : "";
  return `In use: ${used.name}${answer.champion ? ", the champion" : ", the latest"}`;
}

/** @param {{runs: Run[], champion: string|null}} answer @param {boolean} all @param {() => void} reload @param {() => void} showAll */
function drawTable(answer, all, reload, showAll) {
  const { runs } = answer;
  const best = bestOf(runs);
  const columns = METRICS.filter(({ key }) => runs.some((run) => typeof run.metrics?.[key] === "number"));
  const heads = columns.map(({ title, about }) =>
    element("th", { scope: "col", class: "number", title: about, text: title }),
  );
  const shown = all ? runs : runs.slice(0, SHOWN);
  return element(
    "section",
    { class: "card runs-card", "aria-labelledby": "runs-title" },
    element("h2", { id: "runs-title", text: "Side by side" }),
    element(
      "table",
      { class: "cards-narrow" },
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          element("th", { scope: "col", text: "Run" }),
          element("th", { scope: "col", text: "State" }),
          ...heads,
          element("th", { scope: "col", class: "number", text: "Judged on" }),
          element("td"),
        ),
      ),
      element(
        "tbody",
        {},
        ...shown.map((run) => drawRun(run, { columns, best, champion: answer.champion, reload })),
      ),
    ),
    element("p", {
      class: "muted",
      text: "★ best of a column. Runs that were judged on other clips can't be compared to the last digit.",
    }),
    shown.length < runs.length && button(`Show all ${runs.length}`, showAll, { data: { key: "all" } }),
  );
}

/** @param {Run[]} runs @returns {Record<string, number>} the best value of each metric; none where there is nothing to compare */
function bestOf(runs) {
  /** @type {Record<string, number>} */
  const best = {};
  for (const { key, up } of METRICS) {
    const values = runs.map((run) => run.metrics?.[key]).filter((value) => typeof value === "number");
    if (values.length > 1) best[key] = up ? Math.max(...values) : Math.min(...values);
  }
  return best;
}

/**
 * @param {Run} run
 * @param {{columns: typeof METRICS, best: Record<string, number>, champion: string|null, reload: () => void}} table
 * @returns {HTMLElement}
 */
function drawRun(run, { columns, best, champion, reload }) {
  const numbers = columns.map(({ key, title, words }) => {
    const value = run.metrics?.[key];
    if (typeof value !== "number") return element("td", { class: "number", data: { title } });
    const wins = value === best[key];
    const spread =
      typeof run.metrics?.[`${key}_low`] === "number"
        ? `${words(run.metrics[`${key}_low`])} to ${words(run.metrics[`${key}_high`])}, 95 times in 100`
        : null;
    return element(
      "td",
      { class: `number${wins ? " best" : ""}`, data: { title }, title: spread },
      wins && element("span", { class: "star", text: "★", role: "img", "aria-label": "best" }),
      words(value),
    );
  });
  const judged = run.metrics?.clips ? `${run.metrics.clips} clips, ${run.metrics.groups ?? "?"} groups` : "";
  return element(
    "tr",
    { class: run.in_use ? "in-use" : null, data: { test: "run-row", run: run.name } },
    element(
      "th",
      { scope: "row" },
      element("span", { class: "title", text: run.name }),
      element("small", {
        class: "muted",
        text: [run.script, run.started_at && date(run.started_at)].filter(Boolean).join(" · "),
      }),
    ),
    element("td", { class: "run-state" }, ...stateOf(run)),
    ...numbers,
    element("td", { class: "number judged", data: { title: "Judged on" }, text: judged }),
    element(
      "td",
      { class: "run-actions" },
      element(
        "div",
        { class: "actions" },
        ...actionsOf(run, run.version !== null && run.version === champion, reload),
      ),
    ),
  );
}

/** @param {Run} run @returns {Node[]} */
function stateOf(run) {
  if (run.in_use) return [element("span", { class: "badge good", text: "In use" })];
  const [title, kind] = STATES[run.state] ?? [run.state, ""];
  const badge = element("span", { class: `badge ${kind}`, text: title });
  if (run.state !== "running")
    return run.reason ? [badge, element("small", { class: "muted reason", text: run.reason })] : [badge];
  const epochs = run.epochs ? `${run.epoch} of ${run.epochs}` : String(run.epoch);
  const left = run.eta_seconds === null ? "" : `, ${clock(run.eta_seconds)} left`;
  return [
    badge,
    progressBar(run.epochs ? run.epoch / run.epochs : null, "Epochs"),
    element("small", {
      class: "muted",
      text: `epoch ${epochs} ${run.phase}${left}${run.best ? ` · ${run.best}` : ""}`,
    }),
  ];
}

/** @param {Run} run @param {boolean} isChampion @param {() => void} reload @returns {Node[]} */
function actionsOf(run, isChampion, reload) {
  const report =
    run.has_report &&
    element("a", {
      class: "button",
      href: `/runs/${encodeURIComponent(run.name)}/report`,
      target: "_blank",
      rel: "noopener",
      "aria-label": `Report of ${run.name}`,
      text: "Report",
    });
  const promote = button("Promote", () => void ask(), {
    "aria-label": `Promote ${run.name}`,
    data: { test: "promote", key: `promote ${run.name}` },
  });
  const ask = async () => {
    const reason = element("input", {
      type: "text",
      maxlength: 200,
      placeholder: "for example: better on evening matches",
    });
    const agreed = await confirmDialog({
      title: "Use this model from now on?",
      text: `${run.name} becomes the champion: what is labelled from now on is labelled by it. Labels that are there stay. You can roll back.`,
      body: element("label", { class: "field" }, element("span", { text: "Why (optional)" }), reason),
      yes: "Promote",
    });
    if (!agreed) return;
    await busy(promote, async () => {
      const { note } = await post(
        `/api/runs/${encodeURIComponent(run.name)}/promote`,
        reason.value ? { reason: reason.value } : {},
      );
      toast(`${run.name} is the champion now${note ? `, ${note}` : ""}`, "good");
      reload();
    });
  };
  return /** @type {Node[]} */ ([report, run.can_promote && !isChampion && promote].filter(Boolean));
}

/** @param {any} answer @param {() => void} reload @returns {Node[]} */
function drawHistory(answer, reload) {
  const { history } = answer; // the newest first
  if (history.length === 0) return [];
  const before = history[0].after;
  const runOf = (/** @type {string} */ version) =>
    answer.versions.find((/** @type {any} */ v) => v.name === version)?.run ?? version;
  const back =
    before && button("Roll back", () => void ask(), { data: { test: "rollback", key: "roll back" } });
  const ask = async () => {
    const agreed = await confirmDialog({
      title: "Go back to the champion before?",
      text: `${runOf(before)} is used again from now on. The present champion stays among the versions.`,
      yes: "Roll back",
      danger: true,
    });
    if (!agreed) return;
    await busy(back, async () => {
      await post("/api/champion/rollback");
      toast(`${runOf(before)} is the champion again`, "good");
      reload();
    });
  };
  return [
    element(
      "section",
      { class: "card", "aria-labelledby": "champions-title" },
      element(
        "div",
        { class: "view-header" },
        element("h2", { id: "champions-title", text: "Champions" }),
        back,
      ),
      element(
        "ol",
        { class: "reigns" },
        ...history.map((/** @type {any} */ reign) =>
          element(
            "li",
            {},
            element("span", { class: "title", text: runOf(reign.version) }),
            element("small", {
              class: "muted",
              text: [date(reign.since), reign.why].filter(Boolean).join(" · "),
            }),
          ),
        ),
      ),
    ),
  ];
}

function nothing() {
  return emptyState(
    "star",
    "No runs yet",
    "Put clips into data/ads/ and data/games/, or correct labels, and train. A run shows here as soon as it begins.",
  );
}
