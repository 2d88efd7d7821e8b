// @ts-check
// Saving: every change is kept on the server a moment later, one request at a time, again if it fails.

import { watchConnection } from "./api.js";

const DELAY_MS = 400; // after the last change
const RETRY_MS = [1000, 2000, 5000, 10000, 30000];

/** @typedef {import("./edits.js").State} State */
/** About a refusal: try once more, wait for the next change, or save nothing until asked to. @typedef {"again"|"wait"|"leave"} Verdict */
/** @typedef {ReturnType<typeof makeSaver>} Saver */

/**
 * @param {object} ways
 * @param {(state: State) => Promise<void>} ways.send raises ApiError
 * @param {(error: any) => Promise<Verdict>} ways.settle asks about a conflict; of other errors it is "wait"
 * @param {(words: string) => void} ways.onState "saving", "saved", "not saved: why"
 */
export function makeSaver({ send, settle, onState }) {
  /** @type {State|null} */
  let wanted = null;
  let timer = 0;
  let failures = 0;
  let isClosed = false;
  let isLeft = false; // somebody chose not to save: only `saveNow` asks again
  /** @type {Promise<boolean>|null} */
  let running = null;

  function schedule(/** @type {number} */ milliseconds) {
    clearTimeout(timer);
    timer = setTimeout(run, milliseconds);
  }

  /** @returns {Promise<void>} */
  function run() {
    clearTimeout(timer);
    if (!running && !wanted) return Promise.resolve();
    running ??= attempt(/** @type {State} */ (wanted)).finally(() => (running = null));
    return running.then((goesOn) => (goesOn && wanted ? run() : undefined));
  }

  /** Whether there is more to save at once. @param {State} state */
  async function attempt(state) {
    onState("saving");
    try {
      await send(state);
    } catch (error) {
      return fail(error);
    }
    failures = 0;
    if (wanted !== state) return true; // changed meanwhile
    wanted = null;
    onState("saved");
    if (isClosed) stopWatching();
    return false;
  }

  /** @param {any} error */
  async function fail(error) {
    onState(`not saved: ${error?.message ?? error}`);
    if (error?.status === 0 || error?.status === 429 || error?.status >= 500) {
      schedule(RETRY_MS[Math.min(failures, RETRY_MS.length - 1)]);
      failures += 1;
      return false;
    }
    failures = 0;
    const verdict = await settle(error);
    isLeft = verdict === "leave";
    return verdict === "again";
  }

  const saveNow = () => {
    isLeft = false;
    failures = 0;
    return run();
  };
  const stopWatching = watchConnection((now) => void (now === "up" && wanted && !isLeft && saveNow()));

  return {
    /** @param {State} state */
    change(state) {
      wanted = state;
      if (isLeft) return;
      onState("saving");
      failures = 0;
      schedule(DELAY_MS);
    },
    /** Nothing is to be saved any more: what is there is what the server has. */
    forget() {
      clearTimeout(timer);
      wanted = null;
      isLeft = false;
    },
    isDirty: () => wanted !== null,
    saveNow,
    /** Saves what is not saved yet, and goes on trying. */
    close() {
      isClosed = true;
      if (wanted && !isLeft) return saveNow();
      stopWatching();
      return Promise.resolve();
    },
  };
}
