// @ts-check
// Background jobs as the server tells of them: one event stream for the whole page.

import { ApiError, checkConnection, get, watchConnection } from "./api.js";

const REOPEN_MS = 3000;
export const ENDED = new Set(["done", "failed", "cancelled", "interrupted"]);

/**
 * @typedef {object} Job
 * @property {string} id
 * @property {string} kind
 * @property {string} title
 * @property {string|null} recording
 * @property {"queued"|"running"|"done"|"failed"|"cancelled"|"interrupted"} state
 * @property {number|null} progress 0 to 1
 * @property {string} note
 * @property {number|null} eta_seconds
 * @property {string} created_at
 * @property {string|null} started_at
 * @property {string|null} ended_at
 * @property {string|null} error
 * @property {any} result
 */

/** @type {Map<string, Job>} */
const known = new Map();
/** @type {Set<(job: Job) => void>} */
const watchers = new Set();
/** @type {EventSource|null} */
let stream = null;
/** @type {ReturnType<typeof setTimeout>|undefined} */
let reopening;

/** All jobs that were heard of, the newest first. @returns {Job[]} */
export function knownJobs() {
  return [...known.values()].sort((a, b) => (a.created_at < b.created_at ? 1 : -1));
}

/** @param {Job} job */
export const isActive = (job) => !ENDED.has(job.state);

/**
 * Calls back with every job known, and with each that changes, until the returned function is called.
 * @param {(job: Job) => void} callback
 * @returns {() => void}
 */
export function watchJobs(callback) {
  watchers.add(callback);
  for (const job of knownJobs()) callback(job);
  open();
  return () => watchers.delete(callback);
}

/** Tells the watchers of a job that a request has just returned, before the stream does. @param {Job} job */
export function heard(job) {
  const before = known.get(job.id);
  // An answer may arrive after the stream has told how the job ended. One that was interrupted does
  // go on: the server queues it again when it starts.
  const final = before && ENDED.has(before.state) && before.state !== "interrupted";
  if (final && !ENDED.has(job.state)) return;
  known.set(job.id, job);
  for (const watcher of watchers) watcher(job);
}

/**
 * The job once it has ended, in whatever way. Raises ApiError where the server forgot it.
 * @param {string} id
 * @returns {Promise<Job>}
 */
export function jobDone(id) {
  return new Promise((resolve, reject) => {
    /** @type {Array<() => void>} */
    const stops = [];
    const finish = (/** @type {() => void} */ settle) => {
      for (const stop of stops.splice(0)) stop();
      settle();
    };
    const ask = async () => {
      try {
        heard(await get(`/api/jobs/${encodeURIComponent(id)}`));
      } catch (error) {
        if (error instanceof ApiError && error.status === 404) finish(() => reject(error));
      }
    };
    // After a restart of the server the stream says nothing about jobs that are gone.
    stops.push(watchConnection((now) => now === "up" && void ask()));
    stops.push(
      watchJobs((job) => {
        if (job.id === id && ENDED.has(job.state)) queueMicrotask(() => finish(() => resolve(job)));
      }),
    );
  });
}

function open() {
  clearTimeout(reopening);
  if (stream || document.hidden) return;
  stream = new EventSource("/api/jobs/events");
  stream.addEventListener("job", (event) => heard(JSON.parse(event.data)));
  stream.onerror = () => {
    close();
    void checkConnection().then((state) => {
      // "down" asks again by itself and tells us; here the server is there and ended the stream.
      if (state === "up") reopening = setTimeout(open, REOPEN_MS);
    });
  };
}

function close() {
  stream?.close();
  stream = null;
}

watchConnection((now) => {
  if (now === "up" && watchers.size) open();
});

// A browser keeps at most six connections to a server: hidden tabs must not hold them all.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) close();
  else if (watchers.size) open();
});
