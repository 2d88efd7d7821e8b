// @ts-check
// Tracks: what the strip shows besides segments, asked for when it is needed and not before.

import { get } from "./api.js";
import { jobDone } from "./jobs.js";

const QUIET_DECIBELS = -60; // drawn as nothing
const CUTS_SPAN_SECONDS = 120; // of which shot cuts are found at once: they take decoding
const TILE_SECONDS = 30;
const CUTS_DELAY_MS = 250; // after the view stands still

/** @typedef {import("./strip_paint.js").Track} Track */
/** @typedef {{seconds: number, kind: string, strength: number}} Cut */

/** The probability of ads. @param {string} path of the recording @param {AbortSignal} signal @returns {Promise<Track>} */
export async function loadCurve(path, signal) {
  const { hop_seconds, values } = await get(`${path}/curve`, { signal });
  return { hopSeconds: hop_seconds, values: Float32Array.from(values, (value) => value / 1000) };
}

/** How loud it is, once the server knows. @param {string} path @param {AbortSignal} signal @returns {Promise<Track|null>} */
export async function loadLevels(path, signal) {
  let answer = await get(`${path}/levels`, { signal });
  if (answer.job) {
    const job = await jobDone(answer.job.id);
    if (job.state !== "done" || signal.aborted) return null;
    answer = await get(`${path}/levels`, { signal });
  }
  if (!answer.decibels) return null;
  const loud = (/** @type {number} */ decibels) => Math.min(1, Math.max(0, 1 - decibels / QUIET_DECIBELS));
  return { hopSeconds: answer.hop_seconds, values: Float32Array.from(answer.decibels, loud) };
}

/**
 * Shot cuts of what is looked at, in tiles that are asked for once, the one in the middle first.
 * @param {string} path @param {AbortSignal} signal @param {(cuts: Cut[], isWhole: boolean) => void} onCuts
 */
export function makeCuts(path, signal, onCuts) {
  /** @type {Map<number, Cut[]>} */
  const tiles = new Map();
  /** @type {number[]} */
  let wanted = [];
  let isAsking = false;
  let timer = 0;

  const tell = () => onCuts([...tiles.values()].flat().sort((a, b) => a.seconds - b.seconds), wanted.every((tile) => tiles.has(tile)));

  async function ask() {
    if (isAsking) return;
    isAsking = true;
    for (let tile = next(); tile !== undefined && !signal.aborted; tile = next()) {
      const start = tile * TILE_SECONDS;
      tiles.set(tile, []); // of a stretch that can't be read there are none, which is not asked again
      try {
        tiles.set(tile, (await get(`${path}/cuts?start=${start}&end=${start + TILE_SECONDS}`, { signal })).cuts);
      } catch (error) {
        if (signal.aborted) break;
        console.warn("shot cuts", error);
      }
      tell();
    }
    isAsking = false;
  }
  const next = () => wanted.find((tile) => !tiles.has(tile));

  return {
    /** @param {number} start @param {number} end @param {number} durationSeconds */
    look(start, end, durationSeconds) {
      clearTimeout(timer);
      wanted = [];
      if (end - start > CUTS_SPAN_SECONDS) return;
      const middle = (start + end) / 2 / TILE_SECONDS - 0.5;
      const last = Math.ceil(Math.min(end, durationSeconds - 0.01) / TILE_SECONDS);
      for (let tile = Math.floor(start / TILE_SECONDS); tile < last; tile += 1) wanted.push(tile);
      wanted.sort((a, b) => Math.abs(a - middle) - Math.abs(b - middle));
      timer = setTimeout(() => void ask(), CUTS_DELAY_MS);
    },
  };
}
