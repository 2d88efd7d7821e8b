// @ts-check
// Adding videos: uploads with progress that go on while other views are shown, and a classifier
// for a file that is not kept.

import { upload } from "./api.js";
import {
  button,
  bytes,
  clock,
  element,
  labelMark,
  labelProperty,
  meter,
  openDialog,
  percent,
  progressBar,
  showError,
  toast,
} from "./ui.js";

const AT_ONCE = 2;
const ACCEPTED = "video/*,.mp4,.mkv,.mov,.ts,.avi,.webm";

/** @typedef {import("./recording_row.js").Recording} Recording */
/** @typedef {(recording: Recording) => void} Added */

/** @type {Array<() => Promise<void>>} */
const waiting = [];
let running = 0;
/** @type {HTMLElement|undefined} */
let panel;

/** The list of uploads, the same one at each call: leaving the view does not end them. @returns {HTMLElement} */
export function uploadPanel() {
  panel ??= element("ul", { class: "uploads", "aria-label": "Uploads" });
  return /** @type {HTMLElement} */ (panel);
}

/** @param {Added} added @returns {HTMLButtonElement[]} */
export function addButtons(added) {
  return [
    button("Classify a file", () => chooseFiles(false, (files) => classifyFile(files[0])), {
      icon: "search",
    }),
    button("Add videos", () => chooseFiles(true, (files) => addFiles(files, added)), {
      icon: "upload",
      data: { test: "add-videos" },
    }),
  ];
}

/** Takes files that are dropped anywhere on the page, until the returned function is called. @param {Added} added */
export function catchDrops(added) {
  const zone = (
    /** @type {string} */ title,
    /** @type {string} */ text,
    /** @type {(files: File[]) => void} */ take,
  ) => {
    const made = element(
      "div",
      { class: "drop-zone" },
      element("strong", { text: title }),
      element("span", { text }),
    );
    made.addEventListener("dragenter", () => made.classList.add("over"));
    made.addEventListener("dragleave", () => made.classList.remove("over"));
    made.addEventListener("drop", (/** @type {DragEvent} */ event) => {
      made.classList.remove("over");
      const files = [...(event.dataTransfer?.files ?? [])];
      if (files.length > 0) take(files);
    });
    return made;
  };
  const overlay = element(
    "div",
    { class: "drop", hidden: true },
    zone("Add to the recordings", "to label, review and train on", (files) => addFiles(files, added)),
    zone("Only classify", "says what it is and keeps nothing", (files) => classifyFile(files[0])),
  );
  const begun = (/** @type {DragEvent} */ event) => {
    if (event.dataTransfer?.types.includes("Files")) overlay.hidden = false;
  };
  const over = (/** @type {Event} */ event) => event.preventDefault(); // or the browser opens the file
  const ended = (/** @type {DragEvent} */ event) => {
    if (event.type === "drop") event.preventDefault();
    if (event.type === "drop" || event.relatedTarget === null) overlay.hidden = true;
  };
  const listeners = { dragenter: begun, dragover: over, dragleave: ended, drop: ended };
  for (const [name, listener] of Object.entries(listeners))
    document.addEventListener(name, /** @type {any} */ (listener));
  document.body.append(overlay);
  return () => {
    for (const [name, listener] of Object.entries(listeners))
      document.removeEventListener(name, /** @type {any} */ (listener));
    overlay.remove();
  };
}

/** @param {File[]} files @param {Added} added */
function addFiles(files, added) {
  for (const file of files) {
    const stop = new AbortController();
    const bar = progressBar(0, `Upload of ${file.name}`);
    const words = element("small", { class: "muted", text: `${bytes(file.size)}, waiting` });
    const cancel = button("", () => (stop.abort(), entry.remove()), {
      icon: "close",
      class: "quiet square",
      "aria-label": `Cancel the upload of ${file.name}`,
    });
    const entry = element(
      "li",
      {},
      element("div", {}, element("span", { class: "title", text: file.name }), words, bar),
      cancel,
    );
    uploadPanel().append(entry);
    waiting.push(async () => {
      if (stop.signal.aborted) return;
      try {
        added(
          await upload(
            file,
            (share) => {
              bar.value = share;
              words.textContent =
                share < 1 ? `${percent(share)} of ${bytes(file.size)}` : "checking that it is a video…";
            },
            { signal: stop.signal },
          ),
        );
        entry.remove();
        toast(`${file.name} was added`, "good");
      } catch (/** @type {any} */ error) {
        words.textContent = error.message;
        words.className = "problem";
        bar.remove();
        cancel.setAttribute("aria-label", `Close the message about ${file.name}`);
      }
    });
  }
  next();
}

function next() {
  while (running < AT_ONCE && waiting.length > 0) {
    running += 1;
    void (
      /** @type {() => Promise<void>} */ (waiting.shift())().finally(() => {
        running -= 1;
        next();
      })
    );
  }
}

addEventListener("beforeunload", (event) => {
  if (running > 0) event.preventDefault(); // asks whether to leave
});

/** @param {boolean} multiple @param {(files: File[]) => void} chosen */
function chooseFiles(multiple, chosen) {
  const input = element("input", { type: "file", accept: ACCEPTED, multiple });
  input.addEventListener("change", () => input.files.length > 0 && chosen([...input.files]));
  input.click();
}

/** @param {File} file */
async function classifyFile(file) {
  const stop = new AbortController();
  const words = element("p", {
    class: "muted",
    role: "status",
    text: `Sending ${file.name}, ${bytes(file.size)}`,
  });
  const bar = progressBar(0, "Sent");
  const body = element("div", {}, words, bar);
  const dialog = openDialog("What is it?", [
    body,
    element(
      "div",
      { class: "actions end" },
      button("Close", () => dialog.close()),
    ),
  ]);
  dialog.addEventListener("close", () => stop.abort());
  try {
    const answer = await upload(
      file,
      (share) => {
        bar.value = share;
        if (share < 1) return;
        bar.removeAttribute("value");
        words.textContent = `Looking at ${file.name}…`;
      },
      { path: "/api/classify", signal: stop.signal },
    );
    body.replaceChildren(...verdict(file, answer));
  } catch (error) {
    dialog.close();
    showError(error);
  }
}

/** @param {File} file @param {any} answer of /api/classify @returns {Node[]} */
function verdict(file, answer) {
  const shares = Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1]);
  const segments = answer.timeline?.segments ?? [];
  return [
    element(
      "p",
      { class: "verdict", role: "status" },
      labelMark(answer.label),
      ` ${percent(answer.confidence)}`,
    ),
    element("p", { class: "muted", text: `${file.name}. Nothing of it was kept.` }),
    element(
      "dl",
      { class: "shares" },
      ...shares.flatMap(([label, share]) => [
        element("dt", { text: label }),
        element("dd", {}, meter(share, `${label} ${percent(share)}`, labelProperty(label)), percent(share)),
      ]),
    ),
    segments.length > 1 && element("h3", { text: "Over its length" }),
    segments.length > 1 &&
      element(
        "ol",
        { class: "spans" },
        ...segments.map((/** @type {any} */ s) =>
          element(
            "li",
            {},
            element("span", { text: `${clock(s.start_seconds)} – ${clock(s.end_seconds)}` }),
            labelMark(s.label),
            element("span", { class: "muted", text: percent(s.confidence) }),
            s.unsure && element("span", { class: "badge unsure", text: "unsure" }),
          ),
        ),
      ),
  ].filter(Boolean);
}
