// @ts-check
// Controls of the review view: header, buttons, range bar, menus and what is said; no state of its own.

import { del } from "./api.js";
import { button, clock, counted, element, labelMark, percent, progressBar, showError, span } from "./ui.js";

const RATES = [0.5, 1, 1.5, 2, 4];

/** @typedef {import("./edits.js").Segments} Segments */
/**
 * @typedef {object} Given
 * @property {any} recording
 * @property {{name: string, suffix: string, about: string}[]} formats
 * @property {string[]} labels
 * @property {(action: string, amount?: number) => void} run
 * @property {HTMLElement} picture
 * @property {HTMLElement} strip
 * @property {HTMLElement} list
 */

/** @param {Given} given */
export function makeControls({ recording, formats, labels, run, picture, strip, list }) {
  const { id, editable } = recording;
  /** A button of an action. @param {string} text @param {string} action @param {number} [amount] @param {Record<string, any>} [props] */
  const act = (text, action, amount = 0, props = {}) => button(text, () => run(action, amount), props);
  /** One that shows a key, too. @param {string} text @param {string} key @param {string} action @param {number} [amount] @param {Record<string, any>} [props] */
  const keyed = (text, key, action, amount, props = {}) => {
    const made = act(text, action, amount, { title: `Key ${key}`, "aria-keyshortcuts": key, ...props });
    made.append(element("kbd", { text: key, "aria-hidden": "true" }));
    return made;
  };

  // Header
  const summary = element("p", { class: "lead" });
  const saveState = element("span", { class: "save-state", data: { test: "save-state" } });
  const place = element("span", { class: "muted place" });
  const saveNow = act("Save now", "saveNow", 0, { hidden: true });
  const undo = act("Undo", "undo", 0, { data: { test: "undo" }, "aria-keyshortcuts": "Control+z" });
  const redo = act("Redo", "redo", 0, { data: { test: "redo" }, "aria-keyshortcuts": "Control+Shift+z" });
  const accept = act("Accept as it is", "accept", 0, { icon: "check", data: { test: "accept" }, "aria-keyshortcuts": "a" });
  const backToModel = act("Back to the model’s", "backToModel", 0, { data: { test: "back-to-model" } });
  const labelButton = act("", "labelWithModel", 0, { icon: "label", data: { test: "label-button" } });
  const downloads = element("div", { class: "menu-items" });
  const download = element("details", { class: "menu" }, element("summary", { class: "button", text: "Download" }), downloads);
  const jobLine = element("div", { class: "job-line", hidden: true, role: "status" });
  const notes = element("div", { class: "notes" });
  const header = element(
    "header",
    { class: "review-header" },
    element("div", { class: "review-title" }, element("h1", { tabindex: -1, text: recording.name.split("/").pop(), title: recording.name }), summary),
    element("div", { class: "actions" }, element("span", { class: "saving" }, saveState, place), saveNow, editable && undo, editable && redo, editable && accept, editable && backToModel, labelButton, download),
  );

  // Picture
  const proxyButton = act("Make a light copy to play", "makeProxy", 0, { class: "primary" });
  const proxyWords = element("p", { text: "" });
  const proxy = element("div", { class: "proxy", hidden: true }, proxyWords, proxyButton);
  picture.append(proxy);

  // Transport
  const play = act("Play", "play", 0, { class: "primary play", data: { test: "play" }, "aria-keyshortcuts": "Space" });
  const time = element("span", { class: "time", role: "timer" }); // no live region: it changes all the time
  const rate = element("select", { "aria-label": "Speed", on: { change: () => run("rate", Number(rate.value)) } });
  rate.append(...RATES.map((value) => element("option", { value, selected: value === 1, text: `${value} ×` })));
  const transport = element(
    "div",
    { class: "transport", role: "toolbar", "aria-label": "Play" },
    act("⇤", "edge", -1, { title: "Edge before ([)", "aria-label": "Edge before", class: "square" }),
    act("−5 s", "skip", -5, { title: "5 s back (j)" }),
    act("‹", "step", -1, { title: "A frame back (←)", "aria-label": "A frame back", class: "square" }),
    play,
    act("›", "step", 1, { title: "A frame on (→)", "aria-label": "A frame on", class: "square" }),
    act("+5 s", "skip", 5, { title: "5 s on (l)" }),
    act("⇥", "edge", 1, { title: "Next edge (])", "aria-label": "Next edge", class: "square" }),
    element("div", { class: "clock" }, time, rate),
  );

  // Editing
  const labelButtons = labels.slice(0, 9).map((label, k) => {
    const made = keyed("", String(k + 1), "label", k + 1, { "aria-label": `Label ${label}` });
    made.prepend(labelMark(label));
    return made;
  });
  const noLabel = keyed("no label", "0", "label", 0);
  const edgeWords = element("span", { class: "muted edge-words" });
  const tools = element(
    "div",
    { class: "tools", role: "toolbar", "aria-label": "Correct", hidden: !editable },
    element("div", { class: "group", role: "group", "aria-label": "Label of the segment at the playhead" }, ...labelButtons, noLabel),
    element("div", { class: "group" }, keyed("Split", "s", "split", 0, { data: { test: "split" } }), keyed("Merge", "m", "merge", 0, { data: { test: "merge" } })),
    element(
      "div",
      { class: "group nudges", role: "group", "aria-label": "Move the edge" },
      act("−1 s", "nudge", -1, { title: "Edge a second back (Alt ,)" }),
      act("−0.1", "nudge", -0.1, { title: "Edge 0.1 s back (Shift ,)", class: "wide-only" }),
      keyed("−f", ",", "nudgeFrame", -1, { "aria-label": "Edge a frame back", title: "Edge a frame back (,)" }),
      keyed("edge here", "e", "edgeHere", 0, { title: "The nearest edge to the playhead (e)" }),
      keyed("+f", ".", "nudgeFrame", 1, { "aria-label": "Edge a frame on", title: "Edge a frame on (.)" }),
      act("+0.1", "nudge", 0.1, { title: "Edge 0.1 s on (Shift .)", class: "wide-only" }),
      act("+1 s", "nudge", 1, { title: "Edge a second on (Alt .)" }),
    ),
    edgeWords,
  );
  const said = element("p", { class: "said", role: "status", "aria-live": "polite", data: { test: "said" } });
  const cutsWords = element("span", { class: "cuts-words" });
  const bar = element(
    "div",
    { class: "strip-bar" },
    said,
    element(
      "div",
      { class: "bar-buttons" },
      cutsWords,
      element("div", { class: "group", role: "group", "aria-label": "Zoom" }, act("−", "zoom", 0.5, { title: "Further away (-)", "aria-label": "Zoom out", class: "square" }), act("Fit", "fit", 0, { title: "All of it (f)" }), act("+", "zoom", 2, { title: "Closer (+)", "aria-label": "Zoom in", class: "square" })),
      element("div", { class: "group", role: "group", "aria-label": "Range" }, keyed("Range from", "i", "rangeStart", 0, { title: "A range begins at the playhead (i)" }), keyed("to", "o", "rangeEnd", 0, { title: "The range ends at the playhead (o)", "aria-label": "Range ends here" })),
      keyed("Next unsure", "u", "unsure"),
      keyed("Next in queue", "n", "next"),
      keyed("Keys", "?", "help"),
    ),
  );
  const rangeWords = element("b", {});
  const rangeSearch = element("a", { class: "button primary", text: "Find similar", data: { test: "search-range" } });
  const rangeBar = element(
    "div",
    { class: "range-bar", hidden: true },
    ...[
      rangeWords,
      rangeSearch,
      act("Play it", "playRange"),
      editable && element("span", { class: "muted", text: "a label key labels all of it" }),
      act("Forget", "clear", 0, { class: "quiet" }),
    ].filter(Boolean),
  );

  const root = element(
    "div",
    { class: "review-view" },
    header,
    jobLine,
    notes,
    element(
      "div",
      { class: "stage" },
      element("div", { class: "player" }, picture, transport),
      element("section", { class: "side", "aria-label": "Segments" }, list),
      element("div", { class: "bench" }, bar, strip, tools, rangeBar),
    ),
  );
  if (!editable) notes.append(element("div", { class: "notice", role: "note" }, element("p", { text: `A training clip: its folder says that it is ${recording.label}. To correct parts of it, move it into data/recordings.` })));
  document.addEventListener("click", closeMenu);

  /** @param {MouseEvent} event */
  function closeMenu(event) {
    if (!root.isConnected) return document.removeEventListener("click", closeMenu);
    if (!download.contains(/** @type {Node} */ (event.target))) download.open = false;
  }

  /** @param {boolean} isCorrected @param {boolean} hasModel */
  function fillDownloads(isCorrected, hasModel) {
    const sources = [isCorrected && ["corrected", "As corrected"], hasModel && ["model", "As the model said"]].filter(Boolean);
    download.hidden = !sources.length || !formats.length;
    const wanted = JSON.stringify(sources);
    if (downloads.dataset.sources === wanted) return;
    downloads.dataset.sources = wanted;
    downloads.replaceChildren(
      ...sources.map(([of, title]) =>
        element(
          "section",
          {},
          element("h3", { text: title }),
          ...formats.map(({ name, about }) =>
            element("a", { href: `/api/recordings/${id}/download?format=${encodeURIComponent(name)}&of=${of}`, download: "", title: about }, element("b", { text: name }), " ", element("small", { text: about })),
          ),
        ),
      ),
    );
  }

  /** @param {[number, number]|null} range */
  function setRange(range) {
    rangeBar.hidden = !range;
    if (!range) return;
    const [start, end] = range;
    // In place: what is pressed or in focus while the range still moves must stay what it is.
    rangeSearch.href = `#/search?recording=${id}&start=${start.toFixed(3)}&end=${end.toFixed(3)}`;
    rangeWords.textContent = `${clock(start, 1)} – ${clock(end, 1)} (${span(end - start)})`;
  }

  return {
    element: root,
    /** @param {{history: any, revision: string|null, range: [number, number]|null, edge: number, segments: Segments, here: number, recording: any}} now */
    set({ history, revision, range, edge, segments, here, recording: now }) {
      undo.disabled = !history.past.length;
      redo.disabled = !history.future.length;
      undo.title = history.past.length ? `Undo: ${history.present.what} (Ctrl z)` : "Undo (Ctrl z)";
      redo.title = history.future.length ? `Redo: ${history.future[0].what} (Ctrl Shift z)` : "Redo (Ctrl Shift z)";
      accept.hidden = history.present.corrected;
      backToModel.hidden = !history.present.corrected;
      backToModel.lastChild.textContent = now.timeline ? "Back to the model’s" : "Remove the corrections";
      labelButton.lastChild.textContent = now.timeline ? "Label again" : "Label with the model";
      labelButton.classList.toggle("primary", !now.timeline);
      summary.textContent = describe(segments, history.present.corrected, now);
      for (const [k, made] of labelButtons.entries()) made.setAttribute("aria-pressed", String(segments[here]?.label === labels[k]));
      noLabel.setAttribute("aria-pressed", String(segments[here]?.label === null));
      edgeWords.textContent = edge > 0 && segments[edge] ? `edge ${edge}: ${clock(segments[edge].start_seconds, 3)}` : "";
      fillDownloads(revision !== null, !!now.timeline);
      setRange(range);
    },
    /** @param {number} at @param {number} duration @param {string|null} label */
    setTime(at, duration, label) {
      time.textContent = `${clock(at, 2)} / ${clock(duration)} · ${label ?? "no label"}`;
    },
    /** @param {boolean} isPlaying */
    setPlaying(isPlaying) {
      play.textContent = isPlaying ? "Pause" : "Play";
      play.setAttribute("aria-pressed", String(isPlaying));
    },
    /** @param {string} words */
    say: (words) => void (said.textContent = words),
    /** @param {string} words */
    setSaveState(words) {
      if (saveState.textContent === words) return;
      saveState.textContent = words;
      saveState.dataset.kind = words.startsWith("not") ? "bad" : words;
      saveNow.hidden = !words.startsWith("not");
      if (!words.startsWith("saved")) place.textContent = "";
      if (words.startsWith("not")) said.textContent = `${words}.`; // the others come and go too often to be read out
    },
    /** @param {"beside"|"cache"} where */
    setPlace(where) {
      place.textContent = where === "beside" ? "beside the recording" : "in the cache";
    },
    /** @param {"far"|"loading"|"shown"} state */
    setCuts(state) {
      cutsWords.textContent = { far: "zoom in to 2 min for shot cuts", loading: "finding shot cuts …", shown: "▲ shot cuts" }[state];
    },
    /** @param {any} media @param {string|null} trouble */
    setMedia(media, trouble) {
      proxy.hidden = media.kind !== "needs_proxy";
      proxyButton.hidden = false;
      proxyWords.textContent = trouble ? `It can’t be played: ${trouble}` : "This browser can’t play the file as it is. The strip and the pictures work all the same.";
    },
    /** @param {any} job */
    setProxy(job) {
      proxy.hidden = false;
      proxyButton.hidden = true;
      proxyWords.replaceChildren(`Making a light copy … ${job.progress === null ? "" : percent(job.progress)}`, progressBar(job.progress, "Light copy"));
    },
    /** @param {any|null} job */
    setJob(job) {
      jobLine.hidden = !job;
      labelButton.disabled = !!job;
      if (!job) return;
      const state = job.state === "queued" ? "waits for other jobs" : job.progress === null ? job.note || "begins" : percent(job.progress);
      const left = job.eta_seconds ? ` · ${span(job.eta_seconds)} left` : "";
      jobLine.replaceChildren(
        element("span", { text: `Labelling: ${state}${left}` }),
        progressBar(job.state === "queued" ? 0 : job.progress, "Labelling"),
        button("Cancel", () => void del(`/api/jobs/${job.id}`).catch(showError), { class: "quiet" }),
      );
    },
    /** @param {HTMLElement} made */
    note: (made) => notes.append(made),
  };
}

/** @param {Segments} segments @param {boolean} isCorrected @param {any} recording */
function describe(segments, isCorrected, recording) {
  const ads = segments.filter((segment) => segment.label === "ads");
  const seconds = ads.reduce((sum, segment) => sum + segment.end_seconds - segment.start_seconds, 0);
  const unsure = segments.filter((segment) => segment.unsure).length;
  const said = [span(segments[segments.length - 1].end_seconds)];
  if (isCorrected) said.push("corrected");
  else if (!recording.timeline) said.push(recording.found_labels?.segments?.length ? "labels found" : "not labelled");
  said.push(ads.length ? `${counted(ads.length, "break")}, ${span(seconds)} of ads` : "no ads");
  if (unsure) said.push(`${unsure} unsure`);
  if (recording.damage?.length) said.push(`damaged in ${counted(recording.damage.length, "place")}`);
  return said.join(" · ");
}
