// @ts-check
// Strip: a stretch of the recording on a canvas, to look at, zoom, move along and drag edges on.

import { indexAt, nearestEdge, snapped } from "./edits.js";
import { HEIGHT, ROWS, paintOverview, paintPlayhead, paintStrip, readPalette } from "./strip_paint.js";
import { clock, element, thumbnailAddress } from "./ui.js";

const OVERVIEW_HEIGHT = 30;
const LEAST_SPAN_SECONDS = 1;
const GRAB_PIXELS = { mouse: 6, pen: 10, touch: 18 };
const SNAP_PIXELS = 9;
const CLICK_PIXELS = 4; // moved less, a press is a click
const MAX_HANDLES = 60;
const HOVER_MS = 60;
const FOLLOW_AT = 0.12; // of the width, where the playhead goes on when it has left at the right

/** @typedef {import("./edits.js").Segments} Segments */
/** @typedef {import("./strip_paint.js").Scene} Scene */
/**
 * @typedef {object} Told what the strip says to its view
 * @property {(seconds: number) => void} onSeek
 * @property {(edge: number) => void} onSelect
 * @property {(edge: number, seconds: number) => void} onDrag while an edge is moved
 * @property {(isKept: boolean) => void} onDrop
 * @property {(edge: number, event: KeyboardEvent) => void} onEdgeKey
 * @property {(range: [number, number]) => void} onRange
 * @property {(start: number, end: number) => void} onView
 */
/** @typedef {Pick<Scene, "segments"|"model"|"curve"|"levels"|"cuts"|"playhead"|"range"|"edge">} Content */
/** @typedef {ReturnType<typeof makeStrip>} Strip */

/** @param {{id: string, durationSeconds: number, frameSeconds: number}} recording @param {Told} told */
export function makeStrip({ id, durationSeconds, frameSeconds }, told) {
  const canvas = element("canvas", { class: "strip-canvas", data: { test: "strip" }, role: "img" });
  const overview = element("canvas", { class: "overview", "aria-hidden": "true" });
  const handles = element("div", { class: "handles", role: "group", "aria-label": "Edges between segments" });
  const hover = element("div", { class: "hover", hidden: true, "aria-hidden": "true" });
  const picture = element("img", { alt: "", decoding: "async" });
  const words = element("span");
  const line = element("div", { class: "hover-line", hidden: true });
  hover.append(picture, words);
  const area = element("div", { class: "strip-area" }, canvas, handles, line, hover);
  const root = element("div", { class: "strip" }, area, overview);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { alpha: false }));
  const overviewContext = /** @type {CanvasRenderingContext2D} */ (overview.getContext("2d", { alpha: false }));
  // What only changes with the view or the segments is kept: while it plays, the playhead alone moves.
  const stillCanvas = document.createElement("canvas");
  const wholeCanvas = document.createElement("canvas");
  const stillContext = /** @type {CanvasRenderingContext2D} */ (stillCanvas.getContext("2d", { alpha: false }));
  const wholeContext = /** @type {CanvasRenderingContext2D} */ (wholeCanvas.getContext("2d", { alpha: false }));

  /** @type {Scene} */
  const scene = {
    start: 0, end: durationSeconds, width: 0, scale: 1,
    segments: [], model: null, curve: null, levels: null, cuts: [], playhead: 0, range: null, edge: -1,
    palette: readPalette(1),
  };
  /** @type {Map<number, HTMLElement>} */
  const shownHandles = new Map();
  let frame = 0;
  let isStale = true;
  let isWholeStale = true;

  // Looking

  const pixels = () => scene.width / (scene.end - scene.start);
  const toX = (/** @type {number} */ seconds) => (seconds - scene.start) * pixels();
  const toSeconds = (/** @type {number} */ x) => Math.min(durationSeconds, Math.max(0, scene.start + x / pixels()));
  const xOf = (/** @type {MouseEvent} */ event) => event.clientX - canvas.getBoundingClientRect().left;

  /** Not before it is known how wide it is. @param {boolean} [isChanged] more than the playhead */
  function draw(isChanged = true) {
    isStale ||= isChanged;
    if (!frame && scene.width) frame = requestAnimationFrame(paint);
  }

  function paint() {
    frame = 0;
    if (isStale) {
      paintStrip(stillContext, scene);
      placeHandles();
      Object.assign(canvas.dataset, { start: scene.start, end: scene.end }); // what is shown, for who can't see it
    }
    isStale = false;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(stillCanvas, 0, 0);
    paintPlayhead(context, scene);
    paintWhole();
  }

  function paintWhole() {
    const { width, scale, palette } = scene;
    if (isWholeStale) paintOverview(wholeContext, { ...scene, start: 0, end: durationSeconds }, OVERVIEW_HEIGHT);
    isWholeStale = false;
    const ctx = overviewContext;
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    ctx.drawImage(wholeCanvas, 0, 0);
    ctx.setTransform(scale, 0, 0, scale, 0, 0);
    const x = (/** @type {number} */ seconds) => (seconds / durationSeconds) * width;
    const [left, right] = [x(scene.start), Math.max(x(scene.end), x(scene.start) + 6)];
    ctx.fillStyle = palette.surface;
    ctx.globalAlpha = 0.62;
    ctx.fillRect(0, 0, left, OVERVIEW_HEIGHT);
    ctx.fillRect(right, 0, width - right, OVERVIEW_HEIGHT);
    ctx.globalAlpha = 1;
    ctx.strokeStyle = palette.ink;
    ctx.lineWidth = 2;
    ctx.beginPath();
    ctx.roundRect(left + 1, 1, right - left - 2, OVERVIEW_HEIGHT - 2, 4);
    ctx.stroke();
    ctx.fillStyle = palette.ink;
    ctx.fillRect(x(scene.playhead) - 1, 0, 2, OVERVIEW_HEIGHT);
  }

  function resize() {
    scene.width = Math.max(1, area.clientWidth);
    scene.scale = window.devicePixelRatio || 1;
    for (const target of [canvas, stillCanvas, overview, wholeCanvas]) {
      const height = target === canvas || target === stillCanvas ? HEIGHT : OVERVIEW_HEIGHT;
      target.width = Math.round(scene.width * scene.scale);
      target.height = Math.round(height * scene.scale);
      target.style.height = `${height}px`;
    }
    recolour();
  }

  function recolour() {
    scene.palette = readPalette(scene.scale);
    isWholeStale = true;
    draw();
  }

  /** @param {number} start @param {number} end */
  function show(start, end) {
    const least = Math.min(durationSeconds, Math.max(LEAST_SPAN_SECONDS, 12 * frameSeconds));
    const span = Math.min(durationSeconds, Math.max(least, end - start));
    const from = Math.min(durationSeconds - span, Math.max(0, start));
    if (from === scene.start && from + span === scene.end) return;
    scene.start = from;
    scene.end = from + span;
    told.onView(scene.start, scene.end);
    draw();
  }

  /** @param {number} factor more than 1 is closer @param {number} at seconds that stay where they are */
  function zoom(factor, at = scene.playhead) {
    const held = at < scene.start || at > scene.end ? (scene.start + scene.end) / 2 : at;
    const span = (scene.end - scene.start) / factor;
    const share = (held - scene.start) / (scene.end - scene.start);
    show(held - share * span, held - share * span + span);
    if (held !== at) reveal(at);
  }

  /** Moves along until a time is seen. @param {number} seconds @param {boolean} [isFollowing] */
  function reveal(seconds, isFollowing = false) {
    const span = scene.end - scene.start;
    const margin = isFollowing ? 0 : Math.min(span * 0.05, (24 * span) / scene.width);
    if (seconds >= scene.start + margin && seconds <= scene.end - margin) return;
    if (seconds <= margin && scene.start === 0) return;
    if (seconds >= durationSeconds - margin && scene.end >= durationSeconds) return;
    const start = isFollowing ? seconds - FOLLOW_AT * span : seconds - span / 2;
    show(start, start + span);
  }

  // Edges as elements, for keyboard and screen reader

  function placeHandles() {
    const wanted = handlesInView();
    for (const [edge, handle] of shownHandles) {
      if (wanted.has(edge) || (handle === document.activeElement && edge < scene.segments.length)) continue;
      handle.remove();
      shownHandles.delete(edge);
    }
    const current = wanted.has(scene.edge) ? scene.edge : nearestEdge(scene.segments, scene.playhead);
    const reachable = wanted.has(current) ? current : wanted.values().next().value;
    for (const edge of wanted) {
      if (!shownHandles.has(edge)) insertHandle(edge);
    }
    for (const [edge, handle] of shownHandles) describeHandle(handle, edge, edge === reachable);
  }

  /** Those that are seen; of very many, those around the selected one. */
  function handlesInView() {
    const first = Math.max(1, indexAt(scene.segments, scene.start));
    const last = indexAt(scene.segments, scene.end);
    const middle = scene.edge >= first && scene.edge <= last ? scene.edge : indexAt(scene.segments, scene.playhead);
    const from = last - first < MAX_HANDLES ? first : Math.max(first, Math.min(middle, last) - MAX_HANDLES / 2);
    /** @type {Set<number>} */
    const found = new Set();
    for (let k = from; k <= last && found.size < MAX_HANDLES; k += 1) {
      if (scene.segments[k].start_seconds >= scene.start) found.add(k);
    }
    return found;
  }

  /** @param {number} edge */
  function insertHandle(edge) {
    const handle = element("div", {
      class: "edge", role: "slider", "aria-orientation": "horizontal", data: { test: "edge", edge },
      style: { top: `${ROWS.segments.top}px`, height: `${ROWS.segments.height}px` },
      on: {
        focus: () => told.onSelect(edge),
        keydown: (/** @type {KeyboardEvent} */ event) => told.onEdgeKey(edge, event),
      },
    });
    const later = [...shownHandles.keys()].filter((other) => other > edge);
    handles.insertBefore(handle, later.length ? shownHandles.get(Math.min(...later)) ?? null : null);
    shownHandles.set(edge, handle);
  }

  /** @param {HTMLElement} handle @param {number} edge @param {boolean} isReachable with Tab */
  function describeHandle(handle, edge, isReachable) {
    const [before, after] = [scene.segments[edge - 1], scene.segments[edge]];
    handle.style.transform = `translateX(${toX(after.start_seconds)}px)`;
    const now = after.start_seconds.toFixed(3);
    const said = `${clock(after.start_seconds, 2)}, ${before.label ?? "no label"} to ${after.label ?? "no label"}`;
    if (handle.getAttribute("aria-valuetext") !== said) {
      handle.setAttribute("aria-valuetext", said);
      handle.setAttribute("aria-valuenow", now);
      handle.setAttribute("aria-valuemin", before.start_seconds.toFixed(3));
      handle.setAttribute("aria-valuemax", after.end_seconds.toFixed(3));
      handle.setAttribute("aria-label", `Edge ${edge} of ${scene.segments.length - 1}`);
    }
    handle.tabIndex = isReachable ? 0 : -1;
    handle.classList.toggle("selected", edge === scene.edge);
  }

  // Pointers

  /** @type {Map<number, {x: number}>} */
  const pointers = new Map();
  /** @type {{kind: "press"|"pan"|"edge"|"range"|"scrub", x: number, at: number, edge: number, offset: number, start: number, end: number, playhead: number}|null} */
  let drag = null;
  /** @type {{distance: number, middle: number, span: number}|null} */
  let pinch = null;

  /** @param {PointerEvent} event */
  function edgeUnder(event) {
    const rect = canvas.getBoundingClientRect();
    const y = event.clientY - rect.top;
    if (y < ROWS.segments.top - 4 || y > ROWS.segments.top + ROWS.segments.height + 4) return -1;
    const edge = nearestEdge(scene.segments, toSeconds(xOf(event)));
    const reach = GRAB_PIXELS[/** @type {"mouse"} */ (event.pointerType)] ?? GRAB_PIXELS.mouse;
    return edge > 0 && Math.abs(toX(scene.segments[edge].start_seconds) - xOf(event)) <= reach ? edge : -1;
  }

  /** @param {PointerEvent} event */
  function press(event) {
    if (event.button !== 0) return;
    const x = xOf(event);
    pointers.set(event.pointerId, { x });
    area.setPointerCapture(event.pointerId);
    hideHover();
    if (pointers.size === 2) return startPinch();
    const at = toSeconds(x);
    const isRuler = event.clientY - canvas.getBoundingClientRect().top < ROWS.segments.top;
    const edge = event.shiftKey ? -1 : edgeUnder(event);
    const kind = event.shiftKey ? "range" : edge > 0 ? "edge" : isRuler ? "scrub" : "press";
    const offset = edge > 0 ? scene.segments[edge].start_seconds - at : 0;
    drag = { kind, x, at, edge, offset, start: scene.start, end: scene.end, playhead: scene.playhead };
    if (kind === "edge") {
      event.preventDefault(); // else the browser moves the focus elsewhere
      told.onSelect(edge);
      shownHandles.get(edge)?.focus({ preventScroll: true });
    }
    if (kind === "scrub") told.onSeek(at);
  }

  /** @param {PointerEvent} event */
  function move(event) {
    const held = pointers.get(event.pointerId);
    if (!held) return event.pointerType === "mouse" ? showHover(event) : undefined;
    held.x = xOf(event);
    if (pinch) return movePinch();
    if (!drag) return;
    const at = toSeconds(held.x);
    if (drag.kind === "press" && Math.abs(held.x - drag.x) > CLICK_PIXELS) drag.kind = "pan";
    area.classList.toggle("panning", drag.kind === "pan");
    if (drag.kind === "pan") {
      const moved = (drag.x - held.x) / pixels();
      show(drag.start + moved, drag.end + moved);
    } else if (drag.kind === "scrub") told.onSeek(at);
    else if (drag.kind === "range") told.onRange(at < drag.at ? [at, drag.at] : [drag.at, at]);
    else if (drag.kind === "edge") {
      const to = at + drag.offset;
      // While it is dragged the player shows the edge: what it stood at before is what it snaps to.
      const candidates = event.altKey ? [] : [...scene.cuts.map((cut) => cut.seconds), drag.playhead];
      told.onDrag(drag.edge, snapped(to, candidates, SNAP_PIXELS / pixels()));
    }
  }

  /** @param {PointerEvent} event @param {boolean} isKept */
  function release(event, isKept) {
    if (!pointers.delete(event.pointerId)) return;
    area.classList.remove("panning");
    if (pinch) {
      pinch = null;
      drag = null;
      return;
    }
    if (!drag) return;
    const { kind, at } = drag;
    drag = null;
    if (kind === "edge") told.onDrop(isKept);
    else if (kind === "press" && isKept) told.onSeek(at);
  }

  function startPinch() {
    if (drag?.kind === "edge") told.onDrop(false);
    drag = null;
    const [a, b] = [...pointers.values()];
    pinch = { distance: Math.max(20, Math.abs(a.x - b.x)), middle: toSeconds((a.x + b.x) / 2), span: scene.end - scene.start };
  }

  function movePinch() {
    if (!pinch || pointers.size < 2) return;
    const [a, b] = [...pointers.values()];
    const span = pinch.span * (pinch.distance / Math.max(20, Math.abs(a.x - b.x)));
    const start = pinch.middle - ((a.x + b.x) / 2 / scene.width) * span;
    show(start, start + span);
  }

  /** @param {WheelEvent} event */
  function wheel(event) {
    event.preventDefault();
    const unit = event.deltaMode === 1 ? 30 : event.deltaMode === 2 ? 300 : 1;
    const [dx, dy] = event.shiftKey ? [event.deltaY + event.deltaX, 0] : [event.deltaX, event.deltaY];
    if (Math.abs(dx) > Math.abs(dy)) {
      const moved = (dx * unit) / pixels();
      show(scene.start + moved, scene.end + moved);
    } else {
      // Trackpads tell a pinch as small steps with Ctrl down.
      zoom(Math.exp(-dy * unit * (event.ctrlKey ? 0.01 : 0.0022)), toSeconds(xOf(event)));
    }
  }

  /** @param {MouseEvent} event */
  function zoomToSegment(event) {
    const segment = scene.segments[indexAt(scene.segments, toSeconds(xOf(event)))];
    if (!segment) return;
    const margin = 0.15 * (segment.end_seconds - segment.start_seconds);
    show(segment.start_seconds - margin, segment.end_seconds + margin);
  }

  // Hovering

  let hoverTimer = 0;

  /** @param {PointerEvent} event */
  function showHover(event) {
    const x = xOf(event);
    const at = toSeconds(x);
    area.style.cursor = edgeUnder(event) > 0 ? "ew-resize" : "";
    line.hidden = hover.hidden = false;
    line.style.transform = `translateX(${Math.round(x)}px)`;
    const half = hover.offsetWidth / 2;
    hover.style.transform = `translateX(${Math.round(Math.min(scene.width - half, Math.max(half, x)) - half)}px)`;
    words.textContent = hoverWords(at);
    clearTimeout(hoverTimer);
    hoverTimer = setTimeout(() => {
      const step = Math.max(frameSeconds, (4 * (scene.end - scene.start)) / scene.width);
      const source = thumbnailAddress(id, Math.round(at / step) * step, 90); // of few times, kept by the browser
      if (picture.getAttribute("src") !== source) picture.src = source;
    }, HOVER_MS);
  }

  /** @param {number} at */
  function hoverWords(at) {
    const segment = scene.segments[indexAt(scene.segments, at)];
    const said = [clock(at, pixels() > 20 ? 2 : 1), segment?.label ?? "no label"];
    if (segment?.confidence != null) said.push(`${Math.round(segment.confidence * 100)} %${segment.unsure ? ", unsure" : ""}`);
    const value = scene.curve?.values[Math.floor(at / scene.curve.hopSeconds)];
    if (value !== undefined) said.push(`ads here ${Math.round(value * 100)} %`);
    return said.join(" · ");
  }

  function hideHover() {
    clearTimeout(hoverTimer);
    hover.hidden = line.hidden = true;
  }

  area.addEventListener("pointerdown", press);
  area.addEventListener("pointermove", move);
  area.addEventListener("pointerup", (event) => release(event, true));
  area.addEventListener("pointercancel", (event) => release(event, false));
  area.addEventListener("pointerleave", hideHover);
  area.addEventListener("dblclick", zoomToSegment);
  area.addEventListener("wheel", wheel, { passive: false });
  picture.addEventListener("error", () => picture.classList.add("missing"));
  picture.addEventListener("load", () => picture.classList.remove("missing"));

  /** @param {PointerEvent} event */
  function moveWindow(event) {
    if (!(event.buttons & 1)) return;
    overview.setPointerCapture(event.pointerId);
    const rect = overview.getBoundingClientRect();
    const middle = ((event.clientX - rect.left) / rect.width) * durationSeconds;
    const span = scene.end - scene.start;
    if (span >= durationSeconds) told.onSeek(Math.min(durationSeconds, Math.max(0, middle)));
    else show(middle - span / 2, middle + span / 2);
  }
  overview.addEventListener("pointerdown", moveWindow);
  overview.addEventListener("pointermove", moveWindow);

  const observer = new ResizeObserver(resize);
  observer.observe(area);
  addEventListener("themechange", recolour);

  return {
    element: root,
    /** @param {Partial<Content>} content */
    set(content) {
      if (content.segments && content.segments !== scene.segments) {
        isWholeStale = true;
        const ads = content.segments.filter((segment) => segment.label === "ads").length;
        canvas.setAttribute("aria-label", `${content.segments.length} segments, ${ads} of ads; the list below says them all`);
      }
      const isMoreThanTime = Object.entries(content).some(([name, value]) => name !== "playhead" && scene[/** @type {keyof Content} */ (name)] !== value);
      Object.assign(scene, content);
      draw(isMoreThanTime);
    },
    show,
    zoom,
    reveal,
    fit: () => show(0, durationSeconds),
    span: () => scene.end - scene.start,
    view: () => /** @type {[number, number]} */ ([scene.start, scene.end]),
    isDragging: () => drag !== null && drag.kind === "edge",
    cancelDrag() {
      if (drag?.kind !== "edge") return false;
      drag = null;
      told.onDrop(false);
      return true;
    },
    /** @param {number} edge */
    focusEdge: (edge) => shownHandles.get(edge)?.focus({ preventScroll: true }),
    close() {
      cancelAnimationFrame(frame);
      clearTimeout(hoverTimer);
      observer.disconnect();
      removeEventListener("themechange", recolour);
    },
  };
}
