// @ts-check
// View of all recordings: filter, sort, label, add. Made for a thousand rows and more.

import { addButtons, catchDrops, uploadPanel } from "./adding.js";
import { get, post, watchConnection } from "./api.js";
import { heard, isActive, watchJobs } from "./jobs.js";
import { makeRow, STATES } from "./recording_row.js";
import {
  busy,
  button,
  confirmDialog,
  counted,
  element,
  emptyState,
  failedState,
  notice,
  showError,
  span,
  toast,
  viewHeader,
} from "./ui.js";

/** @typedef {import("./recording_row.js").Recording} Recording */
/** @typedef {import("./recording_row.js").Row} Row */

const FIRST_ROWS = 24; // what a tall window shows; the others follow while nothing else is to do
const NEXT_ROWS = 80;
// What new files and timelines come to is found out by and by: the list is asked for again after
// the first time, then after twice as long each time up to the second.
const AGAIN_MS = [1500, 60_000];

/** @type {Record<string, {title: string, key: (r: Recording) => number|string, down: boolean}>} */
const SORTS = {
  newest: { title: "Newest", key: (r) => r.modified, down: true },
  name: { title: "Recording", key: (r) => r.name.toLowerCase(), down: false },
  state: { title: "State", key: (r) => Object.keys(STATES).indexOf(r.state), down: false },
  length: { title: "Length", key: (r) => r.duration_seconds ?? -1, down: true },
  ads: { title: "Ads", key: (r) => r.ads_share ?? -1, down: true },
  unsure: { title: "Unsure", key: (r) => r.unsure ?? -1, down: true },
  wrong: { title: "Likely wrong", key: (r) => r.expected_wrong_seconds ?? -1, down: true },
};
const COLUMNS = ["name", "state", "length", "ads", "unsure", "wrong"];

/**
 * @param {HTMLElement} root
 * @param {URLSearchParams} params `q`, `state`, `folder`, `sort`, `up`
 * @returns {() => void}
 */
export function show(root, params) {
  const list = new List(root, params);
  const stops = [
    watchJobs((job) => list.hear(job)),
    watchConnection((now) => now === "up" && void list.load()),
    catchDrops((recording) => list.add(recording)),
    () => list.stop(),
  ];
  void list.load();
  return () => stops.forEach((stop) => stop());
}

class List {
  /** @type {Map<string, Row>} */
  #rows = new Map();
  /** @type {Map<string, import("./jobs.js").Job>} */
  #jobs = new Map(); // of each recording the last that was heard of
  /** @type {Row[]} */
  #filled = []; // what is shown, or being put there
  #stopped = false;
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  #again;
  #pauseMs = AGAIN_MS[0];

  /** @param {HTMLElement} root @param {URLSearchParams} params */
  constructor(root, params) {
    const sort = params.get("sort") ?? "newest";
    this.sort = sort in SORTS ? sort : "newest";
    this.up = params.get("up") === "1";
    this.text = element("input", {
      type: "search",
      placeholder: "Name",
      value: params.get("q") ?? "",
      "aria-label": "Filter by name",
    });
    this.state = select(
      "State",
      [["", "All states"], ...Object.entries(STATES).map(([key, value]) => [key, value.title])],
      params.get("state"),
    );
    this.folder = select("Folder", [["", "All folders"]], params.get("folder"));
    this.order = select(
      "Sort",
      Object.entries(SORTS).map(([key, value]) => [key, `Sort: ${value.title}`]),
      this.sort,
    );
    this.labelAll = button("Label all", () => void this.#labelAll(), {
      icon: "label",
      class: "primary",
      hidden: true,
      data: { test: "label-all" },
    });
    this.head = element("div", { role: "row", class: "row head" });
    this.body = element("div", { role: "rowgroup" });
    this.table = element(
      "div",
      { role: "table", class: "recordings-table", "aria-label": "Recordings", hidden: true },
      element("div", { role: "rowgroup" }, this.head),
      this.body,
    );
    this.none = element("div", {}, element("p", { class: "loading", text: "Loading…" }));
    this.notes = element("div");
    this.count = element("p", { class: "muted count-line", role: "status" });
    this.tools = element(
      "div",
      { class: "toolbar", hidden: true },
      this.text,
      this.state,
      this.folder,
      this.order,
    );
    const header = viewHeader(
      "Recordings",
      "",
      ...addButtons((recording) => this.add(recording)),
      this.labelAll,
    );
    this.lead = header.querySelector(".lead");
    root.append(header, this.notes, uploadPanel(), this.tools, this.count, this.table, this.none);
    this.text.addEventListener("input", () => this.#draw());
    for (const control of [this.state, this.folder]) control.addEventListener("change", () => this.#draw());
    this.order.addEventListener("change", () => this.#sortBy(this.order.value));
  }

  stop() {
    this.#stopped = true;
    clearTimeout(this.#again);
  }

  async load() {
    try {
      const answer = await get("/api/recordings");
      if (this.#stopped) return;
      const found = new Set(answer.recordings.map((/** @type {Recording} */ r) => r.id));
      for (const id of this.#rows.keys()) if (!found.has(id)) this.#rows.delete(id);
      for (const recording of answer.recordings) this.#put(recording);
      this.#fillFolders(answer.folders);
      this.#draw();
      this.#askAgain();
      const health = await get("/api/health"); // looks at the model: the list does not wait for it
      /** @type {Set<string>} */
      const notes = new Set([...answer.notes, ...health.notes]);
      this.notes.replaceChildren(
        ...(health.model ? [] : [noModel()]),
        ...[...notes].map((note) => notice(note, "warning")),
      );
    } catch (/** @type {any} */ error) {
      if (this.#stopped) return;
      if (this.#rows.size > 0) return showError(error);
      this.none.replaceChildren(failedState(error, () => void this.load()));
    }
  }

  /** Later, as long as something is missing that will be found out. */
  #askAgain() {
    clearTimeout(this.#again);
    const isMissing = (/** @type {Recording} */ r) =>
      !r.error && (r.duration_seconds === null || (r.state === "labelled" && r.ads_share === null));
    if (![...this.#rows.values()].some((row) => isMissing(row.recording))) return;
    this.#again = setTimeout(() => void this.load(), this.#pauseMs);
    this.#pauseMs = Math.min(2 * this.#pauseMs, AGAIN_MS[1]);
  }

  /** @param {Recording} recording that was uploaded */
  add(recording) {
    this.#put(recording);
    this.#draw();
  }

  /** @param {import("./jobs.js").Job} job */
  hear(job) {
    if (job.kind !== "label" || !job.recording) return;
    const before = this.#jobs.get(job.recording);
    if (before && before.id !== job.id && before.created_at > job.created_at) return;
    this.#jobs.set(job.recording, job);
    const row = this.#rows.get(job.recording);
    row?.setJob(job);
    if (row && job.state === "done" && before?.id === job.id && isActive(before))
      void this.#reload(job.recording);
  }

  /** @param {string} id */
  async #reload(id) {
    try {
      this.#put(await get(`/api/recordings/${id}`));
      this.#describe();
    } catch (error) {
      showError(error);
    }
  }

  /** @param {Recording} recording */
  #put(recording) {
    const row = this.#rows.get(recording.id);
    if (row) row.update(recording);
    else this.#rows.set(recording.id, makeRow(recording, this.#jobs.get(recording.id) ?? null));
  }

  /** @param {Array<{name: string}>} folders */
  #fillFolders(folders) {
    const chosen = this.folder.value || this.folder.dataset.wanted || "";
    const options = [["", "All folders"], ...folders.map(({ name }) => [name, name])];
    this.folder.replaceChildren(...options.map(([value, text]) => element("option", { value, text })));
    this.folder.value = folders.some(({ name }) => name === chosen) ? chosen : "";
    this.folder.hidden = folders.length < 2;
  }

  /** @param {string} name */
  #sortBy(name) {
    this.up = name === this.sort && !this.up;
    this.sort = this.order.value = name;
    this.#draw();
    /** @type {HTMLElement|null} */ (this.head.querySelector("[aria-sort] button"))?.focus();
  }

  /** @returns {Row[]} what passes the filters, in order */
  #shown() {
    const words = this.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const [state, folder] = [this.state.value, this.folder.value];
    const rows = [...this.#rows.values()].filter(
      ({ recording: r }) =>
        (!state || r.state === state) &&
        (!folder || r.folder === folder) &&
        words.every((/** @type {string} */ word) => `${r.folder}/${r.name}`.toLowerCase().includes(word)),
    );
    const { key, down } = SORTS[this.sort];
    const sign = down === this.up ? 1 : -1;
    const keyed = rows.map((row) => /** @type {const} */ ([key(row.recording), row]));
    return keyed.sort(([a], [b]) => (a < b ? -sign : a > b ? sign : 0)).map(([, row]) => row);
  }

  #draw() {
    const shown = this.#shown();
    this.#fill(shown);
    this.table.hidden = shown.length === 0;
    this.table.setAttribute("aria-rowcount", String(shown.length + 1));
    this.tools.hidden = this.count.hidden = this.#rows.size === 0;
    this.none.replaceChildren(...this.#instead(shown));
    this.#drawHead();
    this.#describe(shown);
    this.#remember();
  }

  /** Puts the rows there, unless they are: nobody is to lose the place that they look at. @param {Row[]} shown */
  #fill(shown) {
    if (shown.length === this.#filled.length && shown.every((row, at) => row === this.#filled[at])) return;
    this.#filled = shown;
    const more = (/** @type {number} */ from, /** @type {number} */ count) => {
      if (this.#filled !== shown || this.#stopped) return;
      this.body.append(...shown.slice(from, from + count).map((row) => row.element()));
      if (from + count < shown.length) setTimeout(() => more(from + count, NEXT_ROWS));
    };
    this.body.replaceChildren();
    more(0, FIRST_ROWS);
  }

  #drawHead() {
    const cells = COLUMNS.map((name) => {
      const sorted = name === this.sort && (SORTS[name].down === this.up ? "ascending" : "descending");
      const turn = element("button", {
        type: "button",
        class: "sort",
        text: SORTS[name].title,
        on: { click: () => this.#sortBy(name) },
      });
      return element("div", { role: "columnheader", class: `cell ${name}`, "aria-sort": sorted }, turn);
    });
    const last = element(
      "div",
      { role: "columnheader", class: "cell act" },
      element("span", { class: "visually-hidden", text: "Actions" }),
    );
    this.head.replaceChildren(...cells, last);
  }

  /** @param {Row[]} [shown] */
  #describe(shown = this.#shown()) {
    const all = [...this.#rows.values()].map((row) => row.recording);
    const seconds = all.reduce((sum, r) => sum + (r.duration_seconds ?? 0), 0);
    const corrected = all.filter((r) => r.state === "corrected").length;
    const words = [
      counted(all.length, "recording"),
      seconds > 0 && span(seconds),
      corrected > 0 && `${corrected.toLocaleString("en")} corrected`,
    ];
    this.lead.textContent = all.length === 0 ? "" : words.filter(Boolean).join(", ");
    const filtered = shown.length < all.length;
    this.count.textContent = filtered
      ? `${shown.length.toLocaleString("en")} of ${counted(all.length, "recording")}`
      : "";
    const open = shown.filter((row) => row.canLabel()).length;
    this.labelAll.hidden = open === 0;
    /** @type {Node} */ (this.labelAll.lastChild).textContent = filtered
      ? `Label the ${open} shown`
      : `Label all ${open}`;
  }

  /** @param {Row[]} shown @returns {Node[]} what stands where there is no row */
  #instead(shown) {
    if (shown.length > 0) return [];
    if (this.#rows.size > 0) {
      const clear = button("Show all", () => {
        this.text.value = this.state.value = this.folder.value = "";
        this.#draw();
      });
      return [
        emptyState("search", "Nothing matches", "No recording has this name, state and folder.", clear),
      ];
    }
    return [
      emptyState(
        "film",
        "No recordings yet",
        "Drop videos anywhere on this page, or put them into data/recordings/ and look again. Clips to train on go into data/ads/ and data/games/.",
        button("Look again", () => void this.load(), { icon: "refresh" }),
      ),
    ];
  }

  /** Keeps the filters in the address, so that Back and a reload find them. */
  #remember() {
    const wanted = {
      q: this.text.value,
      state: this.state.value,
      folder: this.folder.value,
      sort: this.sort === "newest" ? "" : this.sort,
      up: this.up ? "1" : "",
    };
    const query = new URLSearchParams(Object.entries(wanted).filter(([, value]) => value)).toString();
    history.replaceState(null, "", `#/recordings${query ? `?${query}` : ""}`);
  }

  async #labelAll() {
    const shown = this.#shown();
    const rows = shown.filter((row) => row.canLabel());
    const seconds = rows.reduce((sum, row) => sum + (row.recording.duration_seconds ?? 0), 0);
    const agreed = await confirmDialog({
      title: `Label ${counted(rows.length, "recording")}?`,
      text: `${span(seconds)} of video, one after the other, in the background. You can go on working, and cancel under Jobs.`,
      yes: "Label them",
    });
    if (!agreed) return;
    await busy(this.labelAll, async () => {
      const recordings =
        shown.length < this.#rows.size ? rows.map((row) => row.recording.id) : "all_unlabelled";
      const { jobs } = await post("/api/label", { recordings });
      jobs.forEach(heard);
      toast(`${counted(jobs.length, "recording")} queued`, "info", { text: "Jobs", href: "#/jobs" });
      this.#describe();
    });
  }
}

/** @param {string} name @param {string[][]} options @param {string|null} chosen @returns {HTMLSelectElement} */
function select(name, options, chosen) {
  const made = element(
    "select",
    { "aria-label": name, data: { wanted: chosen ?? "" } },
    ...options.map(([value, text]) => element("option", { value, text })),
  );
  if (options.some(([value]) => value === chosen)) made.value = chosen;
  return made;
}

function noModel() {
  const link = element("a", { href: "#/runs", class: "button", text: "Train a model" });
  return notice(
    "There is no trained model yet, so nothing can be labelled. Train one first, from clips in data/ads/ and data/games/.",
    "warning",
    link,
  );
}
