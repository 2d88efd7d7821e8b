// @ts-check
// Requests to the server: JSON in and out, uploads with progress, and whether it answers at all.

const HEALTH = "/api/health";
const RETRY_MS = 2000;

/** An answer that is no success, in the server's words; status 0 where no answer came. */
export class ApiError extends Error {
  /**
   * @param {string} message one line with the cure
   * @param {string} kind a word to tell cases apart, for example "changed_elsewhere"
   * @param {number} status
   * @param {any} [body] the whole answer
   */
  constructor(message, kind, status, body) {
    super(message);
    this.name = "ApiError";
    this.kind = kind;
    this.status = status;
    this.body = body;
  }
}

/** @typedef {"up"|"down"|"locked"} Connection whether the server answers, and lets us in */
/** @typedef {{signal?: AbortSignal, keepalive?: boolean}} RequestOptions */

/** @type {Connection} */
let connection = "up";
/** @type {ReturnType<typeof setTimeout>|undefined} */
let retry;
/** @type {Set<(now: Connection, before: Connection) => void>} */
const watchers = new Set();

/** @param {string} path @param {RequestOptions} [options] @returns {Promise<any>} */
export const get = (path, options) => request("GET", path, undefined, options);
/** @param {string} path @param {any} [body] @param {RequestOptions} [options] @returns {Promise<any>} */
export const post = (path, body = {}, options) => request("POST", path, body, options);
/** @param {string} path @param {any} body @param {RequestOptions} [options] @returns {Promise<any>} */
export const put = (path, body, options) => request("PUT", path, body, options);
/** @param {string} path @param {RequestOptions} [options] @returns {Promise<any>} */
export const del = (path, options) => request("DELETE", path, undefined, options);

/**
 * The server's answer to a file sent as it is: kept among the uploads, or only classified.
 * Raises ApiError; kind "cancelled" where `signal` ended it.
 * @param {File} file
 * @param {(share: number) => void} [onProgress] gets 0 to 1
 * @param {{path?: string, signal?: AbortSignal}} [options]
 * @returns {Promise<any>}
 */
export function upload(file, onProgress, { path = "/api/uploads", signal } = {}) {
  return new Promise((resolve, reject) => {
    const call = new XMLHttpRequest(); // fetch tells nothing about what is sent already
    call.open("POST", `${path}?name=${encodeURIComponent(file.name)}`);
    call.setRequestHeader("Content-Type", "application/octet-stream");
    call.upload.onprogress = (event) => {
      if (event.lengthComputable && event.total) onProgress?.(event.loaded / event.total);
    };
    call.onload = () => {
      setConnection(call.status === 401 ? "locked" : "up");
      const body = parse(call.responseText);
      if (call.status >= 200 && call.status < 300) resolve(body);
      else reject(failure(call.status, body));
    };
    call.onerror = () => {
      // A server that refuses a file half-way closes the connection: that is no reason to call it
      // gone, so ask.
      void checkConnection();
      reject(
        new ApiError(
          `${file.name} was not taken: the connection broke, or the file is larger than the server allows`,
          "upload_broken",
          0,
        ),
      );
    };
    call.onabort = () => reject(new ApiError(`${file.name} was cancelled`, "cancelled", 0));
    signal?.addEventListener("abort", () => call.abort());
    if (signal?.aborted) call.abort();
    else call.send(file);
  });
}

/**
 * Calls back at each change of the connection, until the returned function is called.
 * @param {(now: Connection, before: Connection) => void} callback
 * @returns {() => void}
 */
export function watchConnection(callback) {
  watchers.add(callback);
  return () => watchers.delete(callback);
}

/** Asks the server whether it is there; goes on asking until it is. @returns {Promise<Connection>} */
export async function checkConnection() {
  clearTimeout(retry);
  retry = undefined;
  try {
    const answer = await fetch(HEALTH, { cache: "no-store" });
    setConnection(answer.status === 401 ? "locked" : "up");
  } catch {
    setConnection("down");
  }
  return connection;
}

/**
 * @param {string} method @param {string} path @param {any} body @param {RequestOptions} [options]
 * @returns {Promise<any>}
 */
async function request(method, path, body, options = {}) {
  /** @type {Response} */
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      ...options,
    });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    setConnection("down");
    throw new ApiError("The server does not answer: is serve.py still running?", "no_answer", 0);
  }
  setConnection(answer.status === 401 ? "locked" : "up");
  const text = await answer.text();
  if (!answer.ok) throw failure(answer.status, parse(text));
  return parse(text);
}

/** @param {number} status @param {any} body */
function failure(status, body) {
  const message = body?.error ?? `The server answered ${status}: its log says why`;
  return new ApiError(message, body?.kind ?? "unknown", status, body);
}

/** @param {string} text @returns {any} */
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text || null;
  }
}

/** @param {Connection} now */
function setConnection(now) {
  if (now === "down" && retry === undefined) {
    retry = setTimeout(() => void checkConnection(), RETRY_MS);
  }
  if (now === connection) return;
  const before = connection;
  connection = now;
  for (const watcher of watchers) watcher(now, before);
}
