// @ts-check
// Building blocks of the page: elements, words for numbers, toasts, dialogs, pictures.
// Text that people or files gave goes through textContent alone.

const SVG = "http://www.w3.org/2000/svg";
const TOAST_MS = 6000;
const OTHER_COLOURS = 4; // --class-0 ... --class-3, again from the first where there are more classes

/** Paths of 24 x 24 pictures, drawn with strokes. */
const ICONS = {
  play: "M7 4.5v15l12-7.5z",
  search: "M11 4a7 7 0 1 0 0 14a7 7 0 0 0 0-14zM16 16l4.5 4.5",
  upload: "M12 16V4M7 9l5-5 5 5M4 16v3a1 1 0 0 0 1 1h14a1 1 0 0 0 1-1v-3",
  label: "M3 12.5V5a1 1 0 0 1 1-1h7.5l8.5 8.5-8 8zM8 8.5h.01",
  check: "M5 12.5l4.5 4.5L19 7",
  close: "M6 6l12 12M18 6L6 18",
  warn: "M12 4L2.8 19.5h18.4zM12 10v4.5M12 17.2v.1",
  film: "M4 5h16v14H4zM8 5v14M16 5v14M4 9.7h4M4 14.3h4M16 9.7h4M16 14.3h4",
  back: "M10 5l-7 7 7 7M3 12h18",
  star: "M12 3.5l2.6 5.5 6 .8-4.4 4.2 1.1 6L12 17.1 6.7 20l1.1-6L3.4 9.8l6-.8z",
  refresh: "M19.5 12a7.5 7.5 0 1 1-2.2-5.3L20 9.4M20 4v5.4h-5.4",
};

/**
 * An element. `props`: `class`, `text`, `data`: {name: value}, `style`: {property: value},
 * `on`: {event: listener}; anything else is an attribute (true: empty, null and false: left out).
 * @param {string} tag
 * @param {Record<string, any>} [props]
 * @param {...(Node|string|number|null|undefined|false)} children text stays text
 * @returns {any} the HTMLElement, of the tag's own type
 */
export function element(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") made.className = value;
    else if (name === "text") made.textContent = value;
    else if (name === "data") Object.assign(made.dataset, value);
    else if (name === "style") {
      for (const [property, setting] of Object.entries(value)) made.style.setProperty(property, setting);
    } else if (name === "on") {
      for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    } else made.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) {
    if (child !== null && child !== undefined && child !== false) made.append(/** @type {any} */ (child));
  }
  return made;
}

/** A button. @param {string} text @param {() => void} run @param {Record<string, any>} [props] `icon` too @returns {HTMLButtonElement} */
export function button(text, run, { icon: picture, class: classes = "", ...props } = {}) {
  return element(
    "button",
    { type: "button", class: `button ${classes}`, on: { click: run }, ...props },
    picture && icon(picture),
    text,
  );
}

/** A small picture that says nothing to screen readers. @param {keyof typeof ICONS} name */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/**
 * A time in a recording: 12:03 or 1:02:03, with decimals 12:03.25. Cut, not rounded: a player does so too.
 * @param {number} seconds @param {number} [decimals]
 */
export function clock(seconds, decimals = 0) {
  const scale = 10 ** decimals;
  const units = Math.floor(Math.abs(seconds) * scale + 1e-6);
  const whole = Math.floor(units / scale);
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  const rest = String(whole % 60).padStart(2, "0");
  const head = hours ? `${hours}:${String(minutes).padStart(2, "0")}` : String(minutes);
  const tail = decimals ? `.${String(units % scale).padStart(decimals, "0")}` : "";
  return `${seconds < 0 ? "-" : ""}${head}:${rest}${tail}`;
}

/** Seconds of what `clock` writes, or of a bare number; null where it is neither. @param {string} text */
export function parseClock(text) {
  const match = /^\s*(?:(?:(\d+):)?(\d{1,3}):)?(\d+(?:[.,]\d*)?)\s*$/.exec(text);
  if (!match) return null;
  const [, hours = "0", minutes = "0", seconds] = match;
  return Number(hours) * 3600 + Number(minutes) * 60 + Number(seconds.replace(",", "."));
}

/** A length in words: "2 h 05 min", "12 min", "35 s". @param {number} seconds */
export function span(seconds) {
  if (seconds < 9.95) return `${Math.round(seconds * 10) / 10} s`;
  if (seconds < 99.5) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 100) return `${minutes} min`;
  if (minutes >= 6000) return `${Math.round(minutes / 60).toLocaleString("en")} h`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

/** @param {number} size */
export function bytes(size) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let step = 0;
  while (size >= 999.5 && step < units.length - 1) {
    size /= 1000;
    step += 1;
  }
  return `${size < 9.95 && step ? size.toFixed(1) : Math.round(size)} ${units[step]}`;
}

/** For example "97 %", and "<1 %" for what is little but not nothing. @param {number} share 0 to 1 */
export function percent(share) {
  if (share > 0 && share < 0.005) return "<1 %";
  return `${Math.round(share * 100)} %`;
}

/** "1 break", "3 breaks". @param {number} count @param {string} noun @param {string} [plural] */
export function counted(count, noun, plural = `${noun}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? noun : plural}`;
}

/** A date in the reader's own way of writing. @param {string|number} moment ISO 8601, or seconds since 1970 */
export function date(moment) {
  const when = new Date(typeof moment === "number" ? moment * 1000 : moment);
  if (Number.isNaN(when.getTime())) return String(moment);
  return when.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

/** @type {string[]} */
let otherLabels = [];

/** Tells all classes of the model, so that each keeps its colour. @param {string[]} classes */
export function setClasses(classes) {
  otherLabels = [...new Set([...classes, ...otherLabels])]
    .filter((label) => label !== "ads" && label !== "games")
    .sort();
}

/** The name of a label's custom property: "--ads", "--games", "--class-0". @param {string} label */
export function labelProperty(label) {
  if (label === "ads" || label === "games") return `--${label}`;
  if (!otherLabels.includes(label)) otherLabels.push(label);
  return `--class-${otherLabels.indexOf(label) % OTHER_COLOURS}`;
}

/** A label's colour in the present scheme, for canvases; ask again at "themechange". @param {string} label */
export function labelColour(label) {
  return getComputedStyle(document.documentElement).getPropertyValue(labelProperty(label)).trim();
}

/** A label as a small mark: colour, hatching for ads, and its name. @param {string} label @param {string} [more] */
export function labelMark(label, more = "") {
  return element(
    "span",
    { class: "label-mark" },
    element("i", {
      class: label === "ads" ? "swatch hatched" : "swatch",
      "aria-hidden": "true",
      style: { "--colour": `var(${labelProperty(label)})` },
    }),
    label + more,
  );
}

/** A bar of a share, 0 to 1, with its words for who can't see it. @param {number} share @param {string} words @param {string} [colour] a custom property */
export function meter(share, words, colour = "--accent") {
  return element(
    "span",
    { class: "meter", role: "img", "aria-label": words },
    element("i", {
      class: colour === "--ads" ? "hatched" : null,
      style: { "--colour": `var(${colour})`, width: `${Math.min(1, Math.max(0, share)) * 100}%` },
    }),
  );
}

/** A progress bar; null moves without saying how far. @param {number|null} share @param {string} words */
export function progressBar(share, words) {
  const bar = element("progress", { max: 1, "aria-label": words });
  if (share !== null) bar.value = share;
  return bar;
}

/** Heading of a view, focused by main.js. @param {string} title @param {string} [lead] @param {...Node} actions */
export function viewHeader(title, lead = "", ...actions) {
  return element(
    "header",
    { class: "view-header" },
    element(
      "div",
      {},
      element("h1", { tabindex: -1, text: title }),
      element("p", { class: "lead", text: lead }),
    ),
    element("div", { class: "actions" }, ...actions),
  );
}

/**
 * What stands where there is nothing yet, and what to do about it.
 * @param {keyof typeof ICONS} picture @param {string} title @param {string} text @param {...Node} actions
 */
export function emptyState(picture, title, text, ...actions) {
  return element(
    "div",
    { class: "empty" },
    icon(picture),
    element("h2", { text: title }),
    element("p", { text }),
    actions.length > 0 && element("div", { class: "actions" }, ...actions),
  );
}

/** What stands where a view could not load. @param {any} error @param {() => void} again */
export function failedState(error, again) {
  const retry = button("Try again", again, { icon: "refresh", class: "primary" });
  const state = emptyState("warn", "This could not be loaded", String(error?.message ?? error), retry);
  state.classList.add("failed");
  return state;
}

/** A message that stays where it is put. @param {string} text @param {"info"|"warning"|"error"} [kind] @param {...Node} more */
export function notice(text, kind = "info", ...more) {
  return element(
    "div",
    { class: `notice ${kind}`, role: kind === "error" ? "alert" : "note" },
    element("p", { text }),
    ...more,
  );
}

/**
 * Says something in passing; an error stays until it is closed.
 * @param {string} message @param {"info"|"good"|"error"} [kind]
 * @param {{text: string, href?: string, run?: () => void}} [action]
 */
export function toast(message, kind = "info", action) {
  const region = document.getElementById(kind === "error" ? "alerts" : "toasts");
  if (!region) return;
  const dismiss = () => card.remove();
  const act = action && {
    class: "toast-action",
    on: { click: () => (action.run?.(), dismiss()) },
  };
  const card = element(
    "div",
    { class: `toast ${kind}` },
    icon(kind === "error" ? "warn" : kind === "good" ? "check" : "film"),
    element("p", { text: message }),
    act &&
      (action.href
        ? element("a", { ...act, href: action.href, text: action.text })
        : button(action.text, () => {}, act)),
    button("", dismiss, { icon: "close", class: "quiet square", "aria-label": "Close this message" }),
  );
  for (const shown of [...region.children].slice(0, -3)) shown.remove();
  region.append(card);
  if (kind === "error") return;
  let timer = setTimeout(dismiss, TOAST_MS);
  card.addEventListener("pointerenter", () => clearTimeout(timer));
  card.addEventListener("pointerleave", () => (timer = setTimeout(dismiss, TOAST_MS)));
}

/** Shows what went wrong, except that somebody left. @param {any} error */
export function showError(error) {
  if (error?.name === "AbortError" || error?.kind === "cancelled") return;
  toast(error?.message ?? String(error), "error");
  if (error?.name !== "ApiError") console.error(error);
}

/**
 * Whether the question was answered with yes; Escape is no.
 * @param {{title: string, text?: string, yes: string, no?: string, danger?: boolean, body?: Node}} question
 * @returns {Promise<boolean>}
 */
export function confirmDialog({ title, text = "", yes, no = "Cancel", danger = false, body }) {
  return new Promise((resolve) => {
    const dialog = openDialog(title, [
      text && element("p", { text }),
      body,
      element(
        "div",
        { class: "actions end" },
        button(no, () => dialog.close("no")),
        button(yes, () => dialog.close("yes"), {
          class: danger ? "danger" : "primary",
          data: { test: "confirm" },
          autofocus: true,
        }),
      ),
    ]);
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"));
  });
}

/**
 * A dialog that is shown, and gone from the page once closed.
 * @param {string} title @param {Array<Node|string|false|null|undefined>} content
 * @returns {HTMLDialogElement}
 */
export function openDialog(title, content) {
  const id = `dialog-${Math.random().toString(36).slice(2)}`;
  const dialog = element("dialog", { "aria-labelledby": id }, element("h2", { id, text: title }), ...content);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
    if (event.target === dialog) dialog.close("no"); // the backdrop
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** @type {IntersectionObserver|undefined} */
let inSight;

/**
 * A picture that is asked for once it is near the window, and asked for no longer when it was
 * scrolled past: each is decoded by the server.
 * @param {string} source @param {Record<string, any>} [props]
 */
export function lazyImage(source, props = {}) {
  inSight ??= new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        const image = /** @type {HTMLImageElement} */ (target);
        if (isIntersecting) image.src ||= image.dataset.source ?? "";
        else if (!image.complete) image.removeAttribute("src");
      }
    },
    { rootMargin: "200px" },
  );
  const image = element("img", {
    class: "thumbnail",
    alt: "",
    decoding: "async",
    ...props,
    data: { source },
  });
  image.addEventListener("load", () => {
    inSight?.unobserve(image);
    image.classList.remove("missing");
  });
  image.addEventListener("error", () => {
    if (!image.hasAttribute("src")) return; // taken away by ourselves
    image.removeAttribute("src"); // asked for again when it comes back into sight
    image.classList.add("missing");
  });
  inSight.observe(image);
  return image;
}

/** Address of a picture of a recording. @param {string} recording @param {number} seconds @param {number} [height] */
export function thumbnailAddress(recording, seconds, height = 72) {
  return `/api/recordings/${recording}/thumbnail?seconds=${Math.max(0, seconds).toFixed(2)}&height=${height}`;
}

/**
 * Runs work that may fail, with the button off meanwhile; the error is shown.
 * @param {HTMLButtonElement} control @param {() => Promise<any>} work
 */
export async function busy(control, work) {
  control.disabled = true;
  control.classList.add("working");
  try {
    return await work();
  } catch (error) {
    showError(error);
  } finally {
    control.disabled = false;
    control.classList.remove("working");
  }
}
