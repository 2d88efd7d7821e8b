// @ts-check
// View of the search: where else did this run? A range of a recording in, places in all others out.

import { get, post, watchConnection } from "./api.js";
import { heard, isActive, watchJobs } from "./jobs.js";
import { placesFound } from "./places.js";
import {
  busy,
  button,
  clock,
  counted,
  element,
  emptyState,
  lazyImage,
  notice,
  parseClock,
  percent,
  progressBar,
  showError,
  span,
  thumbnailAddress,
  viewHeader,
} from "./ui.js";

const PREVIEWS = 6;
const LENGTH_SECONDS = 30; // of the range where the address gives none
const ASK_AFTER_MS = 400; // of the last key in the fields

/** @typedef {{id: string, name: string, folder: string, duration_seconds: number|null, editable: boolean}} Listed */

/**
 * @param {HTMLElement} root
 * @param {URLSearchParams} params `recording`, `start`, `end` in seconds
 * @returns {() => void}
 */
export function show(root, params) {
  const stop = new AbortController();
  const index = indexLine();
  const form = new Form(params, (wanted) => void find(wanted));
  const results = element("div", { class: "search-results" });
  root.append(
    viewHeader("Search", "Where else did this run? Mark a range here, or while reviewing."),
    index.line,
    form.element,
    results,
  );

  const find = async (/** @type {any} */ wanted) => {
    history.replaceState(
      null,
      "",
      `#/search?${new URLSearchParams({ recording: wanted.recording, start: String(wanted.start_seconds), end: String(wanted.end_seconds) })}`,
    );
    results.replaceChildren(
      element("p", { class: "loading", role: "status", text: "Looking through the index…" }),
    );
    try {
      const found = await post("/api/search", wanted, { signal: stop.signal });
      results.replaceChildren(...placesFound(found, form.marked(), (id) => form.canLabel(id)));
    } catch (/** @type {any} */ error) {
      if (error.name !== "AbortError")
        results.replaceChildren(notice(error.message ?? String(error), "error"));
    }
  };
  void form.load().then((complete) => {
    if (complete && !stop.signal.aborted) void busy(form.go, async () => form.submit());
  }, showError);
  const stopWatching = watchConnection((now) => now === "up" && void index.load());
  return () => {
    stop.abort();
    stopWatching();
    index.stop();
  };
}

class Form {
  /** @type {Map<string, Listed>} */
  #recordings = new Map(); // by the name that is shown

  /** @param {URLSearchParams} params @param {(wanted: any) => void} find */
  constructor(params, find) {
    this.params = params;
    this.find = find;
    const start = Number(params.get("start")) || 0;
    const end = Number(params.get("end")) || start + LENGTH_SECONDS;
    this.names = element("datalist", { id: "search-names" });
    this.recording = element("input", {
      type: "text",
      list: "search-names",
      required: true,
      autocomplete: "off",
      placeholder: "Type a part of its name",
    });
    this.start = element("input", {
      type: "text",
      value: clock(start, 2),
      size: 10,
      spellcheck: "false",
      placeholder: "12:03",
    });
    this.end = element("input", {
      type: "text",
      value: clock(end, 2),
      size: 10,
      spellcheck: "false",
      placeholder: "12:33",
    });
    this.label = element("select", {}, element("option", { value: "", text: "all" }));
    this.go = button("Find", () => {}, {
      type: "submit",
      class: "primary",
      icon: "search",
      data: { test: "find" },
    });
    this.hint = element("p", { class: "problem", role: "alert" });
    this.preview = element("div", { class: "range-preview", "aria-live": "polite" });
    const field = (/** @type {string} */ name, /** @type {HTMLElement} */ control, classes = "") =>
      element("label", { class: `field ${classes}` }, element("span", { text: name }), control);
    this.element = element(
      "form",
      {
        class: "card search-form",
        on: { submit: (/** @type {Event} */ event) => (event.preventDefault(), this.submit()) },
      },
      element(
        "div",
        { class: "toolbar" },
        field("Recording", this.recording, "wide"),
        field("From", this.start),
        field("To", this.end),
        field("Label", this.label),
        this.go,
      ),
      this.names,
      this.hint,
      this.preview,
    );
    let timer = 0;
    this.element.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.#drawPreview(), ASK_AFTER_MS);
    });
  }

  /** Whether the address gave all that a search needs. @returns {Promise<boolean>} */
  async load() {
    const [answer, health] = await Promise.all([get("/api/recordings"), get("/api/health")]);
    for (const one of answer.recordings) this.#recordings.set(`${one.folder}/${one.name}`, one);
    this.names.replaceChildren(...[...this.#recordings.keys()].map((value) => element("option", { value })));
    this.label.append(
      ...(health.model?.classes ?? []).map((/** @type {string} */ name) =>
        element("option", { value: name, text: name }),
      ),
    );
    const wanted = this.params.get("recording");
    for (const [name, one] of this.#recordings) if (one.id === wanted) this.recording.value = name;
    this.#drawPreview();
    return Boolean(this.recording.value && this.params.get("start") && this.params.get("end"));
  }

  submit() {
    const wanted = this.#read();
    this.hint.textContent = typeof wanted === "string" ? wanted : "";
    if (typeof wanted === "string") return;
    const { recording, start_seconds, end_seconds } = wanted;
    this.find({
      recording: recording.id,
      start_seconds,
      end_seconds,
      ...(this.label.value ? { label: this.label.value } : {}),
    });
  }

  /** @param {string} id */
  canLabel(id) {
    return [...this.#recordings.values()].some((one) => one.id === id && one.editable);
  }

  /** The range as a place of its own; null where it is none. @returns {import("./places.js").Place|null} */
  marked() {
    const wanted = this.#read();
    if (typeof wanted === "string") return null;
    const { recording, start_seconds, end_seconds } = wanted;
    return {
      recording: recording.id,
      name: recording.name,
      start_seconds,
      end_seconds,
      label: null,
      likeness: 1,
      by: "",
    };
  }

  /** @returns {string|{recording: Listed, start_seconds: number, end_seconds: number}} words on what is missing */
  #read() {
    const recording = this.#recordings.get(this.recording.value) ?? this.#only(this.recording.value);
    const [start, end] = [parseClock(this.start.value), parseClock(this.end.value)];
    for (const [control, value] of /** @type {const} */ ([
      [this.start, start],
      [this.end, end],
    ]))
      control.setAttribute("aria-invalid", String(value === null));
    if (!recording) return "No single recording has this name: choose one of the list.";
    if (start === null || end === null) return "A time is written 12:03, 1:02:03 or 723.5.";
    if (end <= start) return "The range ends before it begins.";
    if (recording.duration_seconds !== null && start >= recording.duration_seconds)
      return `The recording is ${clock(recording.duration_seconds)} long.`;
    return { recording, start_seconds: start, end_seconds: end };
  }

  /** The only recording whose name has this text. @param {string} text */
  #only(text) {
    const part = text.trim().toLowerCase();
    const found = part ? [...this.#recordings].filter(([name]) => name.toLowerCase().includes(part)) : [];
    return found.length === 1 ? found[0][1] : undefined;
  }

  #drawPreview() {
    const wanted = this.#read();
    if (typeof wanted === "string") return this.preview.replaceChildren();
    const { recording, start_seconds: start, end_seconds: end } = wanted;
    const times = Array.from({ length: PREVIEWS }, (_, i) => start + ((i + 0.5) / PREVIEWS) * (end - start));
    this.hint.textContent = "";
    this.preview.replaceChildren(
      ...times.map((seconds) =>
        element(
          "figure",
          {},
          lazyImage(thumbnailAddress(recording.id, seconds, 120)),
          element("figcaption", { text: clock(seconds, 1) }),
        ),
      ),
      element("a", {
        class: "button",
        href: `#/review/${recording.id}?t=${start.toFixed(2)}`,
        text: "Play",
        "aria-label": `Play ${recording.name} from ${clock(start)}`,
      }),
    );
  }
}

/** The line on what is indexed, with the button that brings it up to date. */
function indexLine() {
  const line = element("div", { class: "index-line" });
  /** @type {any} */
  let facts = null;
  /** @type {import("./jobs.js").Job|null} */
  let job = null;
  const load = async () => {
    try {
      facts = await get("/api/search");
      draw();
    } catch (/** @type {any} */ error) {
      line.replaceChildren(notice(error.message, "warning"));
    }
  };
  const draw = () => {
    if (!facts) return;
    const underway = job && isActive(job);
    const go = button(
      facts.recordings ? "Bring it up to date" : "Build the index",
      () => void busy(go, async () => heard(await post("/api/search/index"))),
      { class: facts.recordings ? "" : "primary", data: { test: "index" } },
    );
    const missing = facts.to_index ? `, ${counted(facts.to_index, "recording")} not in it yet` : "";
    const gone = facts.stale && !facts.to_index ? ", some of which are gone or changed" : "";
    const words = `${counted(facts.recordings, "recording")}, ${counted(facts.clips, "clip")} in the index${missing}${gone}`;
    line.replaceChildren(
      ...[
        facts.recordings || underway
          ? element("span", { class: "muted", text: words })
          : emptyState(
              "search",
              "Nothing is indexed yet",
              "Searching needs an index of what every stretch of the recordings looks and sounds like. It is built in the background, once.",
              go,
            ),
        !underway && facts.recordings > 0 && facts.stale && go,
        underway &&
          element(
            "div",
            { class: "underway" },
            element("small", { text: indexing(/** @type {any} */ (job)) }),
            progressBar(/** @type {any} */ (job).progress, "Progress of the index"),
          ),
      ].filter(Boolean),
    );
  };
  const stop = watchJobs((one) => {
    if (one.kind !== "index" || (job && one.created_at < job.created_at)) return;
    const ended = job !== null && isActive(job) && !isActive(one);
    job = one;
    if (ended) void load();
    else draw();
  });
  void load();
  return { line, load, stop };
}

/** @param {import("./jobs.js").Job} job */
function indexing(job) {
  if (job.state === "queued") return "waiting for its turn";
  return [
    job.progress === null ? "indexing" : percent(job.progress),
    job.note,
    job.eta_seconds !== null && `${span(job.eta_seconds)} left`,
  ]
    .filter(Boolean)
    .join(" · ");
}
