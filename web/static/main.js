// @ts-check
// The frame: which view the address asks for, the jobs in the bar, the theme, the lost server.

import { get, watchConnection } from "./api.js";
import { ENDED, isActive, knownJobs, watchJobs } from "./jobs.js";
import {
  counted,
  element,
  emptyState,
  failedState,
  percent,
  progressBar,
  setClasses,
  showError,
  span,
  toast,
} from "./ui.js";

/** @typedef {(() => void)|void} Cleanup */
/** @typedef {(root: HTMLElement, params: URLSearchParams, id?: string) => Cleanup|Promise<Cleanup>} Show */

/** @type {Record<string, {title: string, tab: string, load: () => Promise<{show: Show}>}>} */
const VIEWS = {
  recordings: { title: "Recordings", tab: "recordings", load: () => import("./recordings.js") },
  review: { title: "Review", tab: "recordings", load: () => import("./review.js") },
  queue: { title: "Review queue", tab: "queue", load: () => import("./queue.js") },
  search: { title: "Search", tab: "search", load: () => import("./search.js") },
  runs: { title: "Runs", tab: "runs", load: () => import("./runs.js") },
  jobs: { title: "Jobs", tab: "jobs", load: () => import("./jobs_view.js") },
};
/** @type {Record<string, string>} */
const THEMES = { system: "as the system", light: "light", dark: "dark" };

const main = /** @type {HTMLElement} */ (document.getElementById("view"));
let visit = 0; // counts the views shown, so that one that loads slowly does not replace a later one
/** @type {Cleanup} */
let leave;

async function route() {
  const [path, query = ""] = location.hash.slice(1).split("?");
  const [name, id] = path.split("/").filter(Boolean).map(decode);
  if (!name) return location.replace("#/recordings");
  const turn = ++visit;
  leave?.();
  leave = undefined;
  const view = VIEWS[name];
  const root = element("div", { class: `view ${view ? name : ""}` });
  main.replaceChildren(root);
  document.getElementById("alerts")?.replaceChildren(); // they were about the view before
  main.classList.toggle("full", name === "review");
  mark(view?.tab);
  document.title = `${view?.title ?? "Not found"} · Ad review`;
  try {
    if (!view) return nothingHere(root);
    const { show } = await view.load();
    if (turn !== visit) return;
    const cleanup = await show(root, new URLSearchParams(query), id);
    if (turn === visit) leave = cleanup;
    else cleanup?.();
  } catch (/** @type {any} */ error) {
    if (turn !== visit) return;
    console.error(error);
    root.replaceChildren(failedState(error, () => void route()));
  }
  if (turn === visit) focusHeading(root);
}

/** @param {string} text */
function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** @param {string|undefined} tab */
function mark(tab) {
  for (const link of document.querySelectorAll(".tabs a")) {
    if (link.getAttribute("href") === `#/${tab}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** @param {HTMLElement} root */
function nothingHere(root) {
  const home = element("a", { class: "button primary", href: "#/recordings", text: "All recordings" });
  root.append(
    emptyState("search", "There is nothing at this address", "The link may be of an older version.", home),
  );
}

/** A screen reader goes on at the heading of the new view. @param {HTMLElement} root */
function focusHeading(root) {
  if (visit === 1 || root.contains(document.activeElement)) return;
  /** @type {HTMLElement} */ (root.querySelector("h1") ?? main).focus({ preventScroll: true });
  scrollTo(0, 0);
}

function showJobs() {
  const active = knownJobs().filter(isActive);
  const count = /** @type {HTMLElement} */ (document.getElementById("job-count"));
  const now = /** @type {HTMLElement} */ (document.getElementById("job-now"));
  count.hidden = now.hidden = active.length === 0;
  if (active.length === 0) return;
  count.textContent = String(active.length);
  count.title = `${active.length} queued or running`;
  const job = active.find((one) => one.state === "running") ?? active[active.length - 1];
  const left = job.eta_seconds === null ? "" : ` · ${span(job.eta_seconds)} left`;
  const words =
    job.state === "queued"
      ? "waiting"
      : job.progress === null
        ? "running"
        : `${percent(job.progress)}${left}`;
  now.replaceChildren(
    element("span", { text: `${job.title} · ${words}` }),
    progressBar(job.state === "queued" ? 0 : job.progress, "Progress of the running job"),
  );
}

function followJobs() {
  /** @type {Set<string>} */
  const running = new Set(); // jobs of before this page opened are no news
  let drawing = 0;
  let labelled = 0; // since the last time that nothing was left to label
  watchJobs((job) => {
    cancelAnimationFrame(drawing);
    drawing = requestAnimationFrame(showJobs);
    if (!ENDED.has(job.state)) return void running.add(job.id);
    if (!running.delete(job.id)) return;
    if (job.state === "failed")
      toast(`${job.title}: ${job.error ?? "failed"}`, "error", { text: "Jobs", href: "#/jobs" });
    if (job.state === "done" && job.kind === "retrain")
      toast(`${job.title}: done`, "good", { text: "Runs", href: "#/runs" });
    if (job.kind !== "label") return;
    if (job.state === "done") labelled += 1;
    if (labelled === 0 || knownJobs().some((one) => one.kind === "label" && isActive(one))) return;
    if (labelled > 1)
      toast(`${counted(labelled, "recording")} labelled`, "good", { text: "Queue", href: "#/queue" });
    else toast(`${job.title}: done`, "good", { text: "Review", href: `#/review/${job.recording}` });
    labelled = 0;
  });
}

function followConnection() {
  const banner = /** @type {HTMLElement} */ (document.getElementById("connection"));
  watchConnection((now, before) => {
    banner.hidden = now === "up";
    if (now === "down")
      banner.textContent =
        "The server does not answer. Trying again every two seconds; nothing on this page is lost.";
    if (now === "locked")
      banner.textContent = "This page is locked: open the address with ?token=… that serve.py printed.";
    if (now !== "up") return;
    toast("The server is back.", "good");
    // A view that could not load anything shows itself anew; others go on where they were.
    if (before === "locked" || main.querySelector(".failed, .loading")) void route();
  });
}

function themeButton() {
  const control = /** @type {HTMLButtonElement} */ (document.getElementById("theme"));
  const chosen = () => document.documentElement.dataset.themeChoice ?? "system";
  const label = () => {
    control.title = `Colours: ${THEMES[chosen()]}`;
    control.setAttribute("aria-label", `${control.title}; change`);
  };
  control.addEventListener("click", () => {
    const names = Object.keys(THEMES);
    const next = names[(names.indexOf(chosen()) + 1) % names.length];
    dispatchEvent(new CustomEvent("choosetheme", { detail: next === "system" ? null : next }));
    label();
    say(control.title);
  });
  label();
}

/** @param {string} words for screen readers alone */
function say(words) {
  const region = document.getElementById("spoken");
  if (region) region.textContent = words;
}

document.querySelector(".skip")?.addEventListener("click", (event) => {
  event.preventDefault(); // the part after # is the view
  main.focus();
});
addEventListener("hashchange", () => void route());
addEventListener("unhandledrejection", (event) => showError(event.reason));
themeButton();
followConnection();
followJobs();
get("/api/health")
  .then((health) => setClasses(health.model?.classes ?? []))
  .catch(() => {}); // the banner says it
void route();
