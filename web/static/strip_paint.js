// @ts-check
// Strip painting: segments, curve, sound, cuts and playhead on a canvas, for one stretch of time.
// Everything is a function of the scene; what lies outside the stretch costs nothing.

import { indexAt } from "./edits.js";
import { clock, labelColour } from "./ui.js";

/** @typedef {import("./edits.js").Segments} Segments */
/**
 * @typedef {object} Scene
 * @property {number} start first second that is shown
 * @property {number} end
 * @property {number} width CSS pixels
 * @property {number} scale device pixels of one
 * @property {Segments} segments
 * @property {Segments|null} model what the model said, where that is something else
 * @property {Track|null} curve
 * @property {Track|null} levels
 * @property {readonly {seconds: number, kind: string}[]} cuts
 * @property {number} playhead
 * @property {[number, number]|null} range
 * @property {number} edge number of the selected one, or -1
 * @property {Palette} palette
 */
/** Values at (k + 0.5) * hop, 0 to 1. @typedef {{hopSeconds: number, values: Float32Array}} Track */
/** @typedef {ReturnType<typeof readPalette>} Palette */

/** Rows from the top, in CSS pixels. */
export const ROWS = {
  ruler: { top: 0, height: 20 },
  segments: { top: 22, height: 56 },
  model: { top: 80, height: 13 },
  curve: { top: 97, height: 50 },
  levels: { top: 151, height: 32 },
};
export const HEIGHT = 185;
const TICK_SECONDS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];
const TICK_PIXELS = 84;
const LABEL_PIXELS = 34; // of a segment that has its name written on it
const CUTS_SPAN_SECONDS = 600; // of more, cuts would lie on one another
const LINE_PIXELS = 2; // for each point of a curve that is drawn as a line
const FONT = "system-ui, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif";

/** Colours of the page's scheme, and patterns in them; ask again at "themechange". @param {number} scale */
export function readPalette(scale) {
  const style = getComputedStyle(document.documentElement);
  const read = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
  const [ink, muted, line, surface, tint] = ["--ink", "--muted", "--line", "--surface", "--tint"].map(read);
  /** @type {Map<string, {colour: string, pattern: CanvasPattern|null, onSolid: CanvasPattern|null}>} */
  const known = new Map();
  return {
    ink, muted, line, surface, tint,
    accent: read("--accent"),
    unsure: read("--unsure"),
    ads: labelColour("ads"),
    /** @param {string|null} label */
    of(label) {
      const key = label ?? "";
      let found = known.get(key);
      if (!found) {
        const colour = label === null ? muted : labelColour(label);
        const kind = label === null ? "dots" : label === "ads" ? "lines" : null;
        found = { colour, pattern: kind && pattern(kind, colour, scale), onSolid: kind && pattern(kind, label === null ? muted : surface, scale) };
        known.set(key, found);
      }
      return found;
    },
  };
}

/** All but the playhead. @param {CanvasRenderingContext2D} context @param {Scene} scene */
export function paintStrip(context, scene) {
  const { width, scale, palette } = scene;
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.fillStyle = palette.surface;
  context.fillRect(0, 0, width, HEIGHT);
  paintRange(context, scene);
  paintRuler(context, scene);
  paintSegments(context, scene, scene.segments, ROWS.segments, true);
  if (scene.model) paintSegments(context, scene, scene.model, ROWS.model, false);
  paintCurve(context, scene);
  paintLevels(context, scene);
  paintCuts(context, scene);
  paintRowNames(context, scene);
  paintEdges(context, scene);
}

/**
 * The whole recording as a bar, for the overview.
 * @param {CanvasRenderingContext2D} context @param {Scene} scene @param {number} height
 */
export function paintOverview(context, scene, height) {
  context.setTransform(scene.scale, 0, 0, scene.scale, 0, 0);
  context.fillStyle = scene.palette.surface;
  context.fillRect(0, 0, scene.width, height);
  paintSegments(context, scene, scene.segments, { top: 3, height: height - 6 }, false);
}

/** @param {Scene} scene */
const toX = ({ start, end, width }) => {
  const pixels = width / (end - start);
  return (/** @type {number} */ seconds) => (seconds - start) * pixels;
};

/** @param {CanvasRenderingContext2D} context @param {Scene} scene */
function paintRuler(context, scene) {
  const { start, end, width, palette } = scene;
  const x = toX(scene);
  const least = (TICK_PIXELS * (end - start)) / width;
  const step = TICK_SECONDS.find((seconds) => seconds >= least) ?? TICK_SECONDS[TICK_SECONDS.length - 1];
  context.font = `11px ${FONT}`;
  context.textBaseline = "middle";
  context.fillStyle = palette.line;
  const minor = step / 5;
  for (let k = Math.ceil(start / minor); k * minor <= end; k += 1) {
    context.fillRect(Math.round(x(k * minor)), k % 5 ? 15 : 4, 1, k % 5 ? 5 : 16);
  }
  context.fillStyle = palette.muted;
  for (let k = Math.floor(start / step); k * step <= end; k += 1) {
    context.fillText(clock(k * step, step < 1 ? 1 : 0), Math.round(x(k * step)) + 4, 9);
  }
}

/**
 * @param {CanvasRenderingContext2D} context @param {Scene} scene @param {Segments} segments
 * @param {{top: number, height: number}} row @param {boolean} isMain with names and marks
 */
function paintSegments(context, scene, segments, { top, height }, isMain) {
  const { start, end, width, palette } = scene;
  const x = toX(scene);
  context.font = `600 12px ${FONT}`;
  context.textBaseline = "middle";
  for (let k = Math.max(0, indexAt(segments, start)); k < segments.length; k += 1) {
    const { start_seconds, end_seconds, label, unsure } = segments[k];
    if (start_seconds >= end) break;
    const left = Math.max(-2, x(start_seconds));
    const right = Math.min(width + 2, x(end_seconds));
    const wide = Math.max(right - left, 0.5);
    const { colour, pattern, onSolid } = palette.of(label);
    if (label !== null) {
      context.globalAlpha = isMain ? 0.34 : 1;
      context.fillStyle = colour;
      context.fillRect(left, top, wide, height);
      context.globalAlpha = 1;
      if (isMain) context.fillRect(left, top, wide, 5);
    }
    if (pattern && onSolid && wide > 3) {
      context.fillStyle = isMain ? pattern : onSolid;
      context.globalAlpha = 0.7;
      context.fillRect(left, top, wide, height);
      context.globalAlpha = 1;
    }
    if (!isMain) continue;
    if (unsure) paintUnsure(context, palette, left, wide, top + height);
    if (wide > LABEL_PIXELS) paintName(context, palette, label ?? "no label", !!unsure, left, wide, top + height / 2 + 2);
  }
}

/** @param {CanvasRenderingContext2D} context @param {Palette} palette @param {string} label @param {boolean} unsure @param {number} left @param {number} wide @param {number} middle */
function paintName(context, palette, label, unsure, left, wide, middle) {
  const from = Math.max(left, 0) + 6;
  const room = left + wide - from - 4;
  const text = unsure ? `${label} ?` : label;
  const needs = context.measureText(text).width;
  if (needs > room) return;
  context.fillStyle = palette.surface; // behind the name, so that no hatching runs through it
  context.globalAlpha = 0.82;
  context.beginPath();
  context.roundRect(from - 3, middle - 9, needs + 6, 18, 4);
  context.fill();
  context.globalAlpha = 1;
  context.fillStyle = palette.ink;
  context.fillText(text, from, middle + 0.5);
}

/** @param {CanvasRenderingContext2D} context @param {Palette} palette @param {number} left @param {number} wide @param {number} bottom */
function paintUnsure(context, palette, left, wide, bottom) {
  context.strokeStyle = palette.unsure;
  context.lineWidth = 4;
  context.setLineDash([6, 4]);
  context.beginPath();
  context.moveTo(left + 1, bottom - 2);
  context.lineTo(left + Math.max(wide - 1, 3), bottom - 2);
  context.stroke();
  context.setLineDash([]);
}

/** @param {CanvasRenderingContext2D} context @param {Scene} scene */
function paintRowNames(context, { curve, levels, model, palette }) {
  context.font = `10px ${FONT}`;
  context.textBaseline = "top";
  const names = /** @type {const} */ ([["probability of ads", ROWS.curve, curve], ["sound", ROWS.levels, levels], ["the model", ROWS.model, model]]);
  for (const [name, row, track] of names) {
    if (!track) continue;
    const wide = context.measureText(name).width;
    context.globalAlpha = 0.8;
    context.fillStyle = palette.surface;
    context.fillRect(0, row.top, wide + 8, 13);
    context.globalAlpha = 1;
    context.fillStyle = palette.muted;
    context.fillText(name, 4, row.top + 2);
  }
}

/** @param {CanvasRenderingContext2D} context @param {Scene} scene */
function paintCurve(context, scene) {
  const { curve, width, palette } = scene;
  const { top, height } = ROWS.curve;
  context.fillStyle = palette.line;
  context.fillRect(0, top + height / 2, width, 1);
  context.fillRect(0, top + height, width, 1);
  if (!curve || !curve.values.length) return;
  const columns = aggregated(curve, scene);
  context.fillStyle = context.strokeStyle = palette.ads;
  if (columns.count > width / LINE_PIXELS) paintCurveColumns(context, columns, top, height);
  else paintCurveLine(context, columns, top, height);
}

/**
 * As a line, where there are few points.
 * @param {CanvasRenderingContext2D} context @param {typeof COLUMNS} columns @param {number} top @param {number} height
 */
function paintCurveLine(context, columns, top, height) {
  const y = (/** @type {number} */ c) => top + height - columns.high[c] * (height - 1);
  context.beginPath();
  for (let c = 0; c < columns.count; c += 1) context.lineTo(columns.x[c], y(c));
  context.lineWidth = 1.4;
  context.lineJoin = "round";
  context.stroke();
  context.lineTo(columns.x[columns.count - 1], top + height);
  context.lineTo(columns.x[0], top + height);
  context.globalAlpha = 0.22;
  context.fill();
  context.globalAlpha = 1;
}

/**
 * As bars of whole pixels, each from its least to its greatest value and to where the last one
 * ended. A stroked line of so many points takes ten times as long where a processor draws it.
 * @param {CanvasRenderingContext2D} context @param {typeof COLUMNS} columns @param {number} top @param {number} height
 */
function paintCurveColumns(context, { x, low, high, count }, top, height) {
  const y = (/** @type {number} */ value) => Math.round(top + height - 1 - value * (height - 2));
  const half = count > 1 ? (x[1] - x[0]) / 2 : 0.5;
  for (let c = 0, left = Math.round(x[0] - half), right = 0; c < count; c += 1, left = right) {
    right = Math.round(x[c] + half);
    const wide = right - left;
    const highest = y(c ? Math.max(high[c], low[c - 1]) : high[c]);
    const lowest = y(c ? Math.min(low[c], high[c - 1]) : low[c]);
    context.globalAlpha = 0.22;
    context.fillRect(left, highest, wide, top + height - highest);
    context.globalAlpha = 1;
    context.fillRect(left, highest, wide, lowest - highest + 1);
  }
}

/** @param {CanvasRenderingContext2D} context @param {Scene} scene */
function paintLevels(context, scene) {
  const { levels, width, palette } = scene;
  const { top, height } = ROWS.levels;
  const middle = top + height / 2;
  context.fillStyle = palette.line;
  context.fillRect(0, middle, width, 1);
  if (!levels || !levels.values.length) return;
  const columns = aggregated(levels, scene);
  const { x, high, count } = columns;
  const each = count > 1 ? (x[1] - x[0]) / 2 : 0.5;
  context.fillStyle = palette.muted;
  context.globalAlpha = 0.6;
  for (let c = 0, left = Math.round(x[0] - each), right = 0; c < count; c += 1, left = right) {
    right = Math.round(x[c] + each);
    const half = Math.max(1, Math.round((high[c] * height) / 2));
    context.fillRect(left, middle - half, right - left, 2 * half);
  }
  context.globalAlpha = 1;
}

const COLUMNS = { x: new Float32Array(0), low: new Float32Array(0), high: new Float32Array(0), count: 0 };

/**
 * Least and greatest value of each pixel column of what is shown, or the values themselves where
 * there are fewer. The arrays are used again by the next call.
 * @param {Track} track @param {Scene} scene
 */
export function aggregated({ hopSeconds, values }, scene) {
  const { start, end, width } = scene;
  const x = toX(scene);
  const first = Math.max(0, Math.floor(start / hopSeconds - 0.5));
  const last = Math.min(values.length, Math.ceil(end / hopSeconds + 0.5));
  const each = Math.max(1, Math.ceil((last - first) / Math.max(1, width)));
  const room = Math.ceil(values.length / each) + 2;
  if (COLUMNS.x.length < room) {
    COLUMNS.x = new Float32Array(room);
    COLUMNS.low = new Float32Array(room);
    COLUMNS.high = new Float32Array(room);
  }
  COLUMNS.count = 0;
  // Columns begin at multiples of `each`, so that the curve does not flicker while it moves along.
  for (let from = Math.floor(first / each) * each; from < last; from += each) {
    let [low, high] = [Infinity, -Infinity];
    const to = Math.min(values.length, from + each);
    for (let k = from; k < to; k += 1) {
      if (values[k] < low) low = values[k];
      if (values[k] > high) high = values[k];
    }
    COLUMNS.x[COLUMNS.count] = x(((from + to) / 2) * hopSeconds);
    COLUMNS.low[COLUMNS.count] = low;
    COLUMNS.high[COLUMNS.count] = high;
    COLUMNS.count += 1;
  }
  return COLUMNS;
}

/** @param {CanvasRenderingContext2D} context @param {Scene} scene */
function paintCuts(context, scene) {
  const { cuts, palette, start, end } = scene;
  if (end - start > CUTS_SPAN_SECONDS) return;
  const x = toX(scene);
  const { top, height } = ROWS.segments;
  context.fillStyle = palette.ink;
  for (const { seconds, kind } of cuts) {
    if (seconds < start || seconds > end) continue;
    const at = Math.round(x(seconds));
    context.globalAlpha = 0.8;
    if (kind === "black") context.fillRect(at - 2, top + height - 9, 5, 9);
    else {
      context.beginPath(); // a hollow foot for what is gradual
      context.moveTo(at + 0.5, top + height - 8);
      context.lineTo(at + 4.5, top + height);
      context.lineTo(at - 3.5, top + height);
      context.closePath();
      if (kind === "cut") context.fill();
      else {
        context.strokeStyle = palette.ink;
        context.lineWidth = 1;
        context.stroke();
      }
    }
    context.globalAlpha = 0.22;
    context.fillRect(at, ROWS.curve.top, 1, ROWS.levels.top + ROWS.levels.height - ROWS.curve.top);
    context.globalAlpha = 1;
  }
}

/** @param {CanvasRenderingContext2D} context @param {Scene} scene */
function paintEdges(context, scene) {
  const { segments, start, end, width, palette, edge } = scene;
  const x = toX(scene);
  const { top, height } = ROWS.segments;
  context.fillStyle = palette.ink;
  const isDense = width / (indexAt(segments, end) - indexAt(segments, start) + 1) < 5; // all would be black
  for (let k = Math.max(1, indexAt(segments, start)); k < segments.length; k += 1) {
    const at = segments[k].start_seconds;
    if (at > end) break;
    if (at < start || (isDense && k !== edge)) continue;
    const left = Math.round(x(at));
    context.fillStyle = k === edge ? palette.accent : palette.ink;
    context.fillRect(k === edge ? left - 1 : left, top, k === edge ? 3 : 1, height);
    if (k === edge) {
      context.globalAlpha = 0.5;
      context.fillRect(left, ROWS.curve.top, 1, ROWS.levels.top + ROWS.levels.height - ROWS.curve.top);
      context.globalAlpha = 1;
    }
  }
}

/** @param {CanvasRenderingContext2D} context @param {Scene} scene */
function paintRange(context, scene) {
  if (!scene.range) return;
  const x = toX(scene);
  const [left, right] = [x(scene.range[0]), x(scene.range[1])];
  context.fillStyle = scene.palette.accent;
  context.globalAlpha = 0.16;
  context.fillRect(left, 0, right - left, HEIGHT);
  context.globalAlpha = 1;
  context.fillRect(Math.round(left), 0, 2, HEIGHT);
  context.fillRect(Math.round(right) - 2, 0, 2, HEIGHT);
}

/** @param {CanvasRenderingContext2D} context @param {Scene} scene */
export function paintPlayhead(context, scene) {
  context.setTransform(scene.scale, 0, 0, scene.scale, 0, 0);
  const left = Math.round(toX(scene)(scene.playhead));
  if (left < -8 || left > scene.width + 8) return;
  context.fillStyle = scene.palette.surface; // a rim, so that it is seen on any colour
  context.fillRect(left - 2, 12, 5, HEIGHT - 12);
  context.fillStyle = scene.palette.ink;
  context.fillRect(left - 0.5, 10, 2, HEIGHT - 10);
  context.beginPath();
  context.moveTo(left - 5.5, 2);
  context.lineTo(left + 6.5, 2);
  context.lineTo(left + 6.5, 8);
  context.lineTo(left + 0.5, 15);
  context.lineTo(left - 5.5, 8);
  context.fill();
}

/** @param {"lines"|"dots"} kind @param {string} colour @param {number} scale */
function pattern(kind, colour, scale) {
  const size = Math.round(8 * scale);
  const tile = document.createElement("canvas");
  tile.width = tile.height = size;
  const context = /** @type {CanvasRenderingContext2D} */ (tile.getContext("2d"));
  context.fillStyle = context.strokeStyle = colour;
  context.lineWidth = 1.6 * scale;
  if (kind === "dots") {
    context.globalAlpha = 0.5;
    context.fillRect(0, 0, scale, scale);
    context.fillRect(size / 2, size / 2, scale, scale);
  } else {
    context.beginPath();
    for (const shift of [-size, 0, size]) {
      context.moveTo(shift - 1, size + 1);
      context.lineTo(shift + size + 1, -1);
    }
    context.stroke();
  }
  const made = context.createPattern(tile, "repeat");
  made?.setTransform(new DOMMatrix().scale(1 / scale));
  return made;
}
