// @ts-check
// Review: look at what a recording shows, and correct it.

import { del, get, post, put } from "./api.js";
import * as edits from "./edits.js";
import { heard, isActive, jobDone, watchJobs } from "./jobs.js";
import { keyOf, showHelp } from "./keys.js";
import { readHistory, writeHistory } from "./kept_history.js";
import { makePlayer } from "./player.js";
import { makeControls } from "./review_controls.js";
import { makeSaver } from "./saving.js";
import { makeSegmentList } from "./segment_list.js";
import { makeStrip } from "./strip.js";
import { loadCurve, loadLevels, makeCuts } from "./tracks.js";
import { button, clock, confirmDialog, element, emptyState, notice, setClasses, showError, span, toast } from "./ui.js";

const FALLBACK_FRAME_RATE = 25;
/** Saves that go on after their view was left, by recording. @type {Map<string, Promise<void>>} */
const pending = new Map();

/** @typedef {import("./edits.js").Segments} Segments */
/** @typedef {import("./edits.js").State} State */

/**
 * @param {HTMLElement} root @param {URLSearchParams} params @param {string} [id]
 * @returns {Promise<() => void>}
 */
export async function show(root, params, id = "") {
  root.append(element("p", { class: "loading", text: "Loading…" }));
  const path = `/api/recordings/${encodeURIComponent(id)}`;
  await pending.get(id);
  const [recording, { formats }] = await Promise.all([get(path), get("/api/formats")]);
  const durationSeconds = recording.timeline?.duration_seconds || recording.duration_seconds || 0;
  setClasses(recording.classes);
  if (!durationSeconds) {
    const back = element("a", { class: "button", href: "#/recordings", text: "All recordings" });
    const why = recording.error ?? "Nothing is known of its length: try to open it again in a moment.";
    root.replaceChildren(emptyState("warn", `${recording.name} can't be shown`, why, back));
    return () => {};
  }
  return makeReview(root, { path, recording, formats, durationSeconds, startSeconds: Number(params.get("t")) || 0 });
}

/**
 * @param {HTMLElement} root
 * @param {{path: string, recording: any, formats: any[], durationSeconds: number, startSeconds: number}} given
 */
function makeReview(root, { path, recording, formats, durationSeconds, startSeconds }) {
  const { id, editable } = recording;
  const frameSeconds = 1 / (recording.timeline?.frame_rate || recording.frame_rate || FALLBACK_FRAME_RATE);
  const leaving = new AbortController();
  const { signal } = leaving;
  const labels = [...recording.classes];
  let model = modelSegments(recording, durationSeconds);
  let history = readHistory(id, startState(recording, durationSeconds));
  /** @type {string|null} */
  let revision = recording.corrections?.revision ?? null;
  let overwrite = false;
  let edge = -1;
  /** @type {[number, number]|null} */
  let range = null;
  /** @type {Segments|null} */
  let dragged = null; // while an edge is moved

  const segments = () => dragged ?? history.present.segments;
  const here = () => edits.indexAt(segments(), player.time() + 1e-6);

  // Saying and showing

  /** @param {string} words */
  const say = (words) => controls.say(words);

  function render() {
    const list = segments();
    const isOther = model && !edits.areSame(list, model);
    strip.set({ segments: list, model: isOther ? model : null, edge, range, playhead: player.time() });
    segmentList.set(list);
    segmentList.setCurrent(here());
    controls.set({ history, revision, range, edge, segments: list, here: here(), recording });
  }

  function onTime() {
    strip.set({ playhead: player.time() });
    if (player.isPlaying() && !strip.isDragging()) strip.reveal(player.time(), true);
    segmentList.setCurrent(here());
    controls.setTime(player.time(), durationSeconds, segments()[here()]?.label ?? null);
  }

  /** @param {number} seconds */
  function go(seconds) {
    player.seek(seconds);
    strip.reveal(player.time());
  }

  /** @param {number} index of an edge */
  function goToEdge(index) {
    if (index < 1) return say("There is no other edge that way.");
    edge = index;
    go(segments()[index].start_seconds);
    render();
    say(describeEdge(index));
  }

  /** @param {number} index */
  function describeEdge(index) {
    const [before, after] = [segments()[index - 1], segments()[index]];
    return `Edge ${index} at ${clock(after.start_seconds, 2)}, ${before.label ?? "no label"} to ${after.label ?? "no label"}.`;
  }

  // Editing

  /** @param {Segments} made @param {string} what said, and kept for undo @param {boolean} [corrected] */
  function commit(made, what, corrected = true) {
    const { present } = history;
    if (!editable) return refuse();
    if (made === present.segments && corrected === present.corrected) return say("Nothing to change there.");
    history = edits.changed(history, { segments: made, corrected, what });
    keep();
    say(`${what}.`);
  }

  function keep() {
    if (edge >= history.present.segments.length) edge = -1;
    saver.change(history.present);
    writeHistory(id, history);
    render();
  }

  function refuse() {
    say("A training clip can't be corrected: its folder says what it shows.");
  }

  /** @param {number} index @param {number} seconds */
  function moveEdge(index, seconds) {
    if (index < 1) return say("There is no edge to move: split with s.");
    edge = index;
    const made = edits.moveEdge(segments(), index, seconds, frameSeconds);
    commit(made, `Edge ${index} to ${clock(made[index].start_seconds, 3)}`);
    go(made[index].start_seconds);
  }

  const chosenEdge = () => (edge > 0 ? edge : edits.nearestEdge(segments(), player.time()));

  /** @param {string|null} label */
  function putLabel(label) {
    if (range) {
      const [start, end] = range;
      range = null;
      return commit(edits.paint(segments(), start, end, label, frameSeconds), `${clock(start, 1)} to ${clock(end, 1)} is ${label ?? "without label"}`);
    }
    const made = edits.setLabel(segments(), here(), label);
    if (made.length !== segments().length) edge = -1; // neighbours were joined
    commit(made, `Labelled ${label ?? "as none of the classes"}`);
  }

  function backToModel() {
    edge = -1;
    commit(model ?? edits.covering([], durationSeconds), "Back to the model's", false);
  }

  /** @param {edits.History} made @param {string} words */
  function travel(made, words) {
    if (made.present === history.present) return say(`There is nothing to ${words === "Undone" ? "undo" : "redo"}.`);
    const what = words === "Undone" ? history.present.what : made.present.what;
    const place = edits.firstDifference(history.present.segments, made.present.segments);
    history = made;
    keep();
    if (place !== null) strip.reveal(place);
    say(`${words}: ${what}.`);
  }

  /** @param {[number, number]|null} made */
  function setRange(made) {
    range = made && made[1] - made[0] >= frameSeconds ? made : null;
    render();
    if (range) say(`Range ${clock(range[0], 1)} to ${clock(range[1], 1)}, ${span(range[1] - range[0])}.`);
  }

  /** @type {Record<string, (amount: number) => any>} */
  const actions = {
    play: () => player.toggle(),
    skip: (seconds) => go(player.time() + seconds),
    goto: (share) => go(share * durationSeconds),
    step: (frames) => (player.step(frames), strip.reveal(player.time())),
    edge: (direction) => goToEdge(edits.nextEdge(segments(), player.time(), direction > 0 ? 1 : -1, frameSeconds)),
    unsure() {
      const index = edits.nextUnsure(segments(), player.time());
      if (index < 0) return say("The model is unsure of nothing here.");
      edge = index || -1;
      go(segments()[index].start_seconds);
      render();
      say(`Unsure: ${segments()[index].label ?? "no label"} from ${clock(player.time(), 1)}.`);
    },
    zoom: (factor) => strip.zoom(factor),
    fit: () => strip.fit(),
    nudge: (seconds) => moveEdge(chosenEdge(), segments()[Math.max(0, chosenEdge())].start_seconds + seconds),
    nudgeFrame: (frames) => actions.nudge(frames * frameSeconds),
    edgeHere: () => moveEdge(edits.nearestEdge(segments(), player.time()), player.time()),
    split() {
      const made = edits.split(segments(), player.time(), frameSeconds);
      if (made !== segments()) edge = edits.indexAt(made, player.time() + 1e-6);
      commit(made, `Split at ${clock(player.time(), 2)}`);
    },
    merge() {
      const made = edits.mergeWithNext(segments(), here());
      if (made !== segments()) edge = -1;
      commit(made, "Merged with the next segment");
    },
    label(number) {
      if (number > labels.length) return say(`There are ${labels.length} labels.`);
      putLabel(number ? labels[number - 1] : null);
    },
    undo: () => travel(edits.undone(history), "Undone"),
    redo: () => travel(edits.redone(history), "Redone"),
    saveNow: () => (saver.isDirty() ? saver.saveNow() : say("Everything is saved.")),
    accept() {
      if (history.present.corrected) return say("This is accepted already.");
      commit(history.present.segments.map((segment) => ({ ...segment, unsure: false })), "Accepted as it is");
    },
    backToModel,
    rangeStart: () => setRange([player.time(), Math.max(range?.[1] ?? 0, player.time() + 1)]),
    rangeEnd: () => setRange([Math.min(range?.[0] ?? Infinity, Math.max(0, player.time() - 1)), player.time()]),
    clear: () => (strip.cancelDrag() ? undefined : setRange(null)),
    playRange() {
      if (!range) return;
      player.seek(range[0]);
      player.playUntil(range[1]);
    },
    next: () => goToNext(id).catch(showError),
    help: () => showHelp(labels),
    rate: (rate) => player.setRate(rate),
    labelWithModel: () => labelWithModel().catch(showError),
    makeProxy: () => makeProxy().catch(showError),
  };

  // The server's part

  const saver = makeSaver({
    async send(state) {
      if (state.corrected) {
        const body = { segments: edits.toRows(state.segments), revision, overwrite };
        const saved = await put(`${path}/corrections`, body, { keepalive: state.segments.length < 500 });
        revision = saved.revision;
        controls.setPlace(saved.place);
      } else if (revision !== null) {
        await del(`${path}/corrections?revision=${encodeURIComponent(revision)}`);
        revision = null;
      }
      overwrite = false;
    },
    async settle(error) {
      if (error.kind === "unknown_file") {
        const yes = "Replace it";
        overwrite = await confirmDialog({ title: "Replace the label file?", text: error.message, yes, no: "Do not save", danger: true });
        return overwrite ? "again" : "leave";
      }
      if (error.kind !== "changed_elsewhere") return "wait";
      const keepMine = await confirmDialog({
        title: "Changed elsewhere",
        text: "Other corrections of this recording were saved after you opened it. Saving yours replaces those; loading them replaces yours, which Undo brings back.",
        yes: "Save mine",
        no: "Load the others",
      });
      const now = await get(path);
      revision = now.corrections?.revision ?? null;
      if (keepMine) return "again";
      saver.forget();
      const others = startState(now, durationSeconds);
      history = edits.changed(history, { ...others, what: "Loaded what was saved elsewhere" });
      writeHistory(id, history);
      render();
      controls.setSaveState("saved");
      return "wait";
    },
    onState(words) {
      controls.setSaveState(words);
      if (words === "saved") render(); // what can be downloaded has changed
      if (signal.aborted && words.startsWith("not saved")) toast(`${recording.name}: ${words}`, "error");
    },
  });

  async function labelWithModel() {
    heard(await post(`${path}/label`, recording.timeline ? { again: true } : {}));
  }

  async function makeProxy() {
    const job = await post(`${path}/proxy`);
    heard(job);
    controls.setProxy(job);
    const ended = await jobDone(job.id);
    if (signal.aborted) return;
    const fresh = await get(path);
    if (ended.state === "done") player.setMedia(fresh.media);
    controls.setMedia(fresh.media, ended.state === "failed" ? ended.error : null);
  }

  /** A new timeline: shown where nobody has corrected anything, else beside what they did. */
  async function takeTimeline() {
    const fresh = await get(path, { signal });
    recording = fresh;
    model = modelSegments(fresh, durationSeconds);
    if (!fresh.timeline) return render();
    if (!history.present.corrected && !history.past.length) history = edits.begin(startState(fresh, durationSeconds));
    else toast("The model's new timeline is the narrow band under yours.", "info");
    render();
    loadTrack("curve", loadCurve);
  }

  /** @param {"curve"|"levels"} name @param {typeof loadLevels} load */
  function loadTrack(name, load) {
    load(path, signal).then(
      (track) => strip.set({ [name]: track }),
      (error) => {
        if (!signal.aborted) console.warn(name, error);
      },
    );
  }

  /** Jobs that were under way when the view was opened, or begun since. @type {Set<string>} */
  const labelling = new Set();

  /** @param {import("./jobs.js").Job} job */
  function followJob(job) {
    if (job.recording !== id) return;
    if (job.kind === "label") {
      controls.setJob(isActive(job) ? job : null);
      if (isActive(job)) labelling.add(job.id);
      else if (labelling.delete(job.id) && job.state === "done") takeTimeline().catch(showError);
    } else if (job.kind === "proxy" && isActive(job)) controls.setProxy(job);
  }

  // Putting it together

  const player = makePlayer(
    { id, durationSeconds, frameSeconds, media: recording.media },
    {
      onTime,
      onState: () => controls.setPlaying(player.isPlaying()),
      onTrouble: (message) => {
        controls.setMedia({ kind: "needs_proxy", url: null, zero_seconds: 0 }, message === "no_video" ? null : message);
        if (message === "no_video") say("The browser can't play this file: make a light copy with the button over the picture.");
      },
    },
  );
  const cuts = makeCuts(path, signal, (found, isWhole) => {
    strip.set({ cuts: found });
    controls.setCuts(isWhole ? "shown" : "loading");
  });
  const strip = makeStrip({ id, durationSeconds, frameSeconds }, {
    onSeek: (seconds) => player.seek(seconds),
    onSelect(index) {
      edge = index;
      render();
    },
    onDrag(index, seconds) {
      if (!editable) return refuse();
      dragged = edits.moveEdge(history.present.segments, index, seconds, frameSeconds);
      player.seek(dragged[index].start_seconds);
      render();
    },
    onDrop(isKept) {
      const made = dragged;
      dragged = null;
      if (made && isKept && made !== history.present.segments) commit(made, `Edge ${edge} to ${clock(made[edge].start_seconds, 3)}`);
      else render();
    },
    onEdgeKey(index, event) {
      const steps = { ArrowLeft: -frameSeconds, ArrowRight: frameSeconds, ArrowDown: -frameSeconds, ArrowUp: frameSeconds, PageDown: -1, PageUp: 1 };
      const by = steps[/** @type {keyof steps} */ (event.key)];
      if (by === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      moveEdge(index, segments()[index].start_seconds + by * (event.shiftKey ? 10 : 1));
    },
    onRange: setRange,
    onView(start, end) {
      const isNear = end - start <= 120;
      controls.setCuts(isNear ? "loading" : "far");
      cuts.look(start, end, durationSeconds);
    },
  });
  const segmentList = makeSegmentList((segment) => {
    go(segment.start_seconds);
    edge = edits.indexAt(segments(), segment.start_seconds) || -1;
    render();
  });
  const controls = makeControls({ recording, formats, labels, run, picture: player.element, strip: strip.element, list: segmentList.element });

  /** @param {string} name @param {number} [amount] */
  function run(name, amount = 0) {
    actions[name](amount);
  }

  /** @param {KeyboardEvent} event */
  function onKey(event) {
    const key = keyOf(event);
    if (!key) return;
    event.preventDefault();
    run(key.action, key.amount);
  }

  /** @param {BeforeUnloadEvent} event */
  function onUnload(event) {
    if (!saver.isDirty()) return;
    void saver.saveNow();
    event.preventDefault();
  }

  root.replaceChildren(controls.element);
  if (recording.found_labels && !revision) {
    const { file, error } = recording.found_labels;
    const text = error ? `${file} could not be read as labels: ${error}` : `These are the labels of ${file}, which was beside the recording.`;
    const instead = recording.timeline && !error && button("Begin with the model’s instead", () => run("backToModel"));
    controls.note(notice(text, error ? "warning" : "info", ...(instead ? [instead] : [])));
  }
  controls.setSaveState(revision ? "saved" : "no corrections yet");
  if (recording.corrections) controls.setPlace(recording.corrections.place);
  cuts.look(0, durationSeconds, durationSeconds);
  controls.setCuts(durationSeconds <= 120 ? "loading" : "far");
  if (recording.timeline) loadTrack("curve", loadCurve);
  if (recording.has_sound) loadTrack("levels", /** @type {any} */ (loadLevels));
  controls.setMedia(recording.media, null);
  player.seek(startSeconds);
  if (startSeconds) edge = edgeAt(segments(), startSeconds);
  render();
  const stopWatching = watchJobs(followJob);
  document.addEventListener("keydown", onKey);
  addEventListener("beforeunload", onUnload);
  return () => {
    document.removeEventListener("keydown", onKey);
    removeEventListener("beforeunload", onUnload);
    stopWatching();
    leaving.abort();
    player.close();
    strip.close();
    pending.set(id, saver.close().finally(() => pending.delete(id)));
  };
}

/** What there is to begin with: corrections, else labels that were found, else the model's. @param {any} recording @param {number} durationSeconds @returns {State} */
function startState(recording, durationSeconds) {
  const { corrections, found_labels: found, timeline } = recording;
  if (corrections) return { segments: edits.covering(corrections.segments, durationSeconds), corrected: true, what: "As saved" };
  const rows = (found?.segments?.length ? found.segments : timeline?.segments) ?? [];
  return { segments: edits.covering(rows, durationSeconds), corrected: false, what: "As found" };
}

/** What the model said; null where it has not. @param {any} recording @param {number} durationSeconds */
function modelSegments({ timeline }, durationSeconds) {
  return timeline && edits.covering(timeline.segments, durationSeconds);
}

/** @param {Segments} segments @param {number} seconds */
function edgeAt(segments, seconds) {
  const index = edits.nearestEdge(segments, seconds);
  return index > 0 && Math.abs(segments[index].start_seconds - seconds) < 0.05 ? index : -1;
}

/** Opens the first of the queue that is another recording. @param {string} id */
async function goToNext(id) {
  const { items } = await get("/api/queue?limit=200");
  const next = items.find((/** @type {any} */ item) => item.recording !== id);
  if (!next) return toast("Nothing else waits for a review.", "good", { text: "Queue", href: "#/queue" });
  location.hash = `#/review/${next.recording}?t=${next.start_seconds.toFixed(3)}`;
}
