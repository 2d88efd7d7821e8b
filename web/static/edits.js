// @ts-check
// Edits: what can be done to the segments of a recording, as functions from one list to another.
// No list is ever changed; where there is nothing to do, the same list comes back.

/**
 * What [start_seconds, end_seconds) shows; a label of null is none of the classes. Segments of a
 * list touch and cover the recording. One that a person has touched has no confidence.
 * @typedef {object} Segment
 * @property {number} start_seconds
 * @property {number} end_seconds
 * @property {string|null} label
 * @property {number|null} [confidence]
 * @property {boolean} [unsure]
 * @property {string[]} [start_evidence]
 */
/** @typedef {readonly Segment[]} Segments */

const DECIMALS = 1e6; // of seconds, as the server keeps them

/** @param {number} seconds */
const rounded = (seconds) => Math.round(seconds * DECIMALS) / DECIMALS;

/**
 * Rows that the server sent, as segments that cover [0, duration).
 * @param {readonly any[]} rows @param {number} durationSeconds 0 where nobody knows
 * @returns {Segment[]}
 */
export function covering(rows, durationSeconds) {
  /** @type {Segment[]} */
  const segments = [];
  const end = durationSeconds || (rows.length ? rows[rows.length - 1].end_seconds : 0);
  let at = 0;
  for (const row of rows) {
    const start = Math.max(at, Math.min(end, row.start_seconds));
    const stop = Math.min(end, row.end_seconds);
    if (start > at) segments.push(none(at, start));
    if (stop > start) segments.push({ ...row, start_seconds: start, end_seconds: stop });
    at = Math.max(at, stop);
  }
  if (at < end) segments.push(none(at, end));
  return segments;
}

/** What the server is sent. @param {Segments} segments */
export function toRows(segments) {
  return segments.map(({ start_seconds, end_seconds, label }) => ({ start_seconds, end_seconds, label }));
}

/** Number of the segment at a time, -1 where there is none. @param {Segments} segments @param {number} seconds */
export function indexAt(segments, seconds) {
  let low = 0;
  let high = segments.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (segments[middle].start_seconds <= seconds) low = middle;
    else high = middle - 1;
  }
  return high < 0 ? -1 : low;
}

/**
 * Number of the edge nearest to a time, -1 where there is none. Edge k is where segment k starts
 * and k - 1 ends, so there is none numbered 0.
 * @param {Segments} segments @param {number} seconds
 */
export function nearestEdge(segments, seconds) {
  const index = indexAt(segments, seconds);
  if (segments.length < 2) return -1;
  if (index === 0) return 1;
  if (index === segments.length - 1) return index;
  const { start_seconds, end_seconds } = segments[index];
  return seconds - start_seconds <= end_seconds - seconds ? index : index + 1;
}

/**
 * Number of the next edge after a time (direction 1) or before it (-1), -1 where there is none.
 * @param {Segments} segments @param {number} seconds @param {1|-1} direction @param {number} least seconds
 */
export function nextEdge(segments, seconds, direction, least) {
  if (direction > 0) {
    const found = segments.findIndex((segment, k) => k > 0 && segment.start_seconds > seconds + least / 2);
    return found;
  }
  for (let k = segments.length - 1; k > 0; k -= 1) {
    if (segments[k].start_seconds < seconds - least / 2) return k;
  }
  return -1;
}

/** Number of the next unsure segment that starts after a time, from the first again; -1 for none. @param {Segments} segments @param {number} seconds */
export function nextUnsure(segments, seconds) {
  const later = segments.findIndex((segment) => segment.unsure && segment.start_seconds > seconds + 1e-6);
  return later >= 0 ? later : segments.findIndex((segment) => segment.unsure);
}

/**
 * Edge `edge` moved to a time, as far as its two segments keep `least` seconds each.
 * @param {Segments} segments @param {number} edge @param {number} seconds @param {number} least
 * @returns {Segments}
 */
export function moveEdge(segments, edge, seconds, least) {
  const [before, after] = [segments[edge - 1], segments[edge]];
  if (!before || !after) return segments;
  const earliest = Math.min(before.start_seconds + least, after.start_seconds);
  const latest = Math.max(after.end_seconds - least, after.start_seconds);
  const at = rounded(Math.min(latest, Math.max(earliest, seconds)));
  if (at === after.start_seconds) return segments;
  return spliced(segments, edge - 1, 2, { ...before, end_seconds: at }, { ...after, start_seconds: at, start_evidence: [] });
}

/**
 * The segment at a time cut in two there, unless one would be shorter than `least` seconds.
 * @param {Segments} segments @param {number} seconds @param {number} least
 * @returns {Segments}
 */
export function split(segments, seconds, least) {
  const index = indexAt(segments, seconds);
  const segment = segments[index];
  const at = rounded(seconds);
  if (!segment || at - segment.start_seconds < least - 1e-6 || segment.end_seconds - at < least - 1e-6) return segments;
  return spliced(segments, index, 1, { ...segment, end_seconds: at }, { ...segment, start_seconds: at, start_evidence: [] });
}

/** A segment and the next as one, with the label of the first. @param {Segments} segments @param {number} index @returns {Segments} */
export function mergeWithNext(segments, index) {
  const [first, second] = [segments[index], segments[index + 1]];
  if (!first || !second) return segments;
  return spliced(segments, index, 2, touched({ ...first, end_seconds: second.end_seconds }));
}

/**
 * A segment with another label, joined with neighbours that have it already. With its own label, it
 * is no longer unsure.
 * @param {Segments} segments @param {number} index @param {string|null} label
 * @returns {Segments}
 */
export function setLabel(segments, index, label) {
  const segment = segments[index];
  if (!segment || (segment.label === label && !segment.unsure && segment.confidence == null)) return segments;
  const isOther = segment.label !== label;
  const [before, after] = [segments[index - 1], segments[index + 1]];
  const joinsBefore = isOther && before?.label === label && before;
  const joinsAfter = isOther && after?.label === label && after;
  const made = touched({
    ...(joinsBefore || segment),
    label,
    end_seconds: (joinsAfter || segment).end_seconds,
  });
  return spliced(segments, joinsBefore ? index - 1 : index, 1 + Number(!!joinsBefore) + Number(!!joinsAfter), made);
}

/**
 * [start, end) with a label, whatever was there.
 * @param {Segments} segments @param {number} start @param {number} end @param {string|null} label @param {number} least
 * @returns {Segments}
 */
export function paint(segments, start, end, label, least) {
  const duration = segments.length ? segments[segments.length - 1].end_seconds : 0;
  // What would leave a rest shorter than a frame takes that too.
  const from = snapTo(rounded(Math.max(0, start)), segments, least);
  const to = snapTo(rounded(Math.min(duration, end)), segments, least);
  if (to - from < least - 1e-6) return segments;
  /** @type {Segment[]} */
  const rest = [];
  for (const segment of segments) {
    if (segment.start_seconds < from) rest.push({ ...segment, end_seconds: Math.min(segment.end_seconds, from) });
  }
  const index = rest.push(none(from, to)) - 1;
  for (const segment of segments) {
    if (segment.end_seconds > to) rest.push({ ...segment, start_seconds: Math.max(segment.start_seconds, to) });
  }
  rest[index].label = label === null ? "" : null; // another than the new one, so that it is set
  return setLabel(rest, index, label);
}

/**
 * The time of the nearest candidate within reach, else the time itself.
 * @param {number} seconds @param {readonly number[]} candidates @param {number} reach
 */
export function snapped(seconds, candidates, reach) {
  let [best, least] = [seconds, reach];
  for (const candidate of candidates) {
    const away = Math.abs(candidate - seconds);
    if (away <= least) [best, least] = [candidate, away];
  }
  return best;
}

/** Whether two lists say the same. @param {Segments} one @param {Segments} other */
export function areSame(one, other) {
  const isSame = (/** @type {Segment} */ a, /** @type {Segment} */ b) =>
    Math.abs(a.start_seconds - b.start_seconds) < 1e-6 && Math.abs(a.end_seconds - b.end_seconds) < 1e-6 && a.label === b.label;
  return one === other || (one.length === other.length && one.every((segment, k) => isSame(segment, other[k])));
}

/** Where two lists differ first, in seconds; null where they don't. @param {Segments} one @param {Segments} other */
export function firstDifference(one, other) {
  const index = one.findIndex((segment, k) => !other[k] || !areSame([segment], [other[k]]));
  if (index < 0) return one.length === other.length ? null : other[one.length].start_seconds;
  const [a, b] = [one[index], other[index] ?? one[index]];
  if (a.start_seconds !== b.start_seconds || a.label !== b.label) return Math.min(a.start_seconds, b.start_seconds);
  return Math.min(a.end_seconds, b.end_seconds);
}

// History

/**
 * Segments at one moment, whether a person has said so, and what made them so.
 * @typedef {object} State
 * @property {Segments} segments
 * @property {boolean} corrected
 * @property {string} what
 */
/** @typedef {{past: readonly State[], present: State, future: readonly State[]}} History */

/** @param {State} state @returns {History} */
export const begin = (state) => ({ past: [], present: state, future: [] });

/** The history with one state more; what was undone is gone. @param {History} history @param {State} state @returns {History} */
export const changed = ({ past, present }, state) => ({ past: [...past, present], present: state, future: [] });

/** @param {History} history @returns {History} */
export function undone({ past, present, future }) {
  if (!past.length) return { past, present, future };
  return { past: past.slice(0, -1), present: past[past.length - 1], future: [present, ...future] };
}

/** @param {History} history @returns {History} */
export function redone({ past, present, future }) {
  if (!future.length) return { past, present, future };
  return { past: [...past, present], present: future[0], future: future.slice(1) };
}

/** @param {number} start @param {number} end @returns {Segment} */
function none(start, end) {
  return { start_seconds: start, end_seconds: end, label: null };
}

/** @param {Segment} segment @returns {Segment} */
function touched({ start_seconds, end_seconds, label }) {
  return { start_seconds, end_seconds, label, confidence: null, unsure: false };
}

/** @param {Segments} segments @param {number} index @param {number} count @param {...Segment} made @returns {Segments} */
function spliced(segments, index, count, ...made) {
  return [...segments.slice(0, index), ...made, ...segments.slice(index + count)];
}

/** An edge or end nearer than `least` to a time, else the time. @param {number} seconds @param {Segments} segments @param {number} least */
function snapTo(seconds, segments, least) {
  const { start_seconds, end_seconds } = segments[Math.max(0, indexAt(segments, seconds))] ?? none(0, 0);
  if (seconds - start_seconds < least) return start_seconds;
  return end_seconds - seconds < least ? end_seconds : seconds;
}
